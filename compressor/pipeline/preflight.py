"""Everything that can be told of a recipe before torch is loaded, told at once.

A mistake must not hide another: whatever is wrong is collected, what does not depend on it is
looked at all the same, and all of it comes in the order of the recipe's lines. Where something is
wrong with the request the exit code is 2, whatever else is missing; 3 when that is all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compressor.data import Dataset, check_plan, check_present, check_split
from compressor.errors import (
    EnvironmentMismatch,
    RecipeError,
    missing_package,
    raise_all,
)
from compressor.models.checkpoint import describe_checkpoint
from compressor.models.runtime_releases import surely_runs
from compressor.pipeline.inputs import (
    check_label_columns,
    check_local_checkpoints,
    check_local_passes,
    check_packages,
    check_resolution,
    check_task,
    check_text_inputs,
    known_labels,
    known_metric,
    known_task,
    lies_here,
    local_inputs,
)
from compressor.pipeline.output import check_output
from compressor.pipeline.wanted_splits import needed_splits, read_splits
from compressor.recipe.recipe import Recipe, load_recipe
from compressor.tasks import Task, find_metric, load_task, task_class, with_own_metric

_READ_AT_ONCE = 1 << 24  # bytes of all files together, half a second; of larger ones the header


@dataclass(frozen=True)
class Seen:
    """What was found out about a recipe in which nothing is wrong.

    `splits` holds the rows where all of them were read; where a file is large, on the Hub or of
    images it is empty. What only loading can tell is None.
    """

    task: str | None
    metric: str | None
    labels: tuple[str, ...] | None
    splits: Mapping[str, Dataset]


@dataclass
class _Findings:
    """What is wrong, as finished lines: mistakes of the request, and what this machine lacks."""

    recipe: Recipe
    mistakes: list[str] = field(default_factory=list)
    more: int = 0  # mistakes that were not even explained
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Take in what a check raises, and go on."""
        try:
            yield
        except RecipeError as error:
            self.mistakes += map(self.recipe.placed_line, error.mistakes)
        except EnvironmentMismatch as error:
            self.problems += map(self.recipe.placed_line, error.problems)
        except ModuleNotFoundError as error:
            mismatch = missing_package(error)
            if mismatch is None:
                raise
            self.problems += mismatch.problems

    def check(self) -> None:
        """Raise when anything was found; each thing is told once, where it is told best."""
        better = [f": {line}" for line in self.problems]  # the end of a line with its place
        told = [
            line
            for line, end in zip(self.problems, better, strict=True)
            if not any(other.endswith(end) for other in self.problems)
        ]
        lines = self.recipe.in_order([*self.mistakes, *told])
        if self.mistakes:
            raise RecipeError(lines, more=self.more)
        raise_all((), lines)


def load_whole(
    path: str | Path, overrides: Sequence[str] = (), *, allow_code: bool = False
) -> Recipe:
    """Read a recipe like `load_recipe`; its mistakes come with those of all that it names.

    A recipe without mistakes is returned as it is: `check_inputs` looks at what it names. With
    `allow_code` the code of the user's own that it names may run.
    """
    try:
        recipe = load_recipe(path, overrides)
        return recipe.allowing_code() if allow_code else recipe
    except RecipeError as error:
        if not isinstance(error.readable, Recipe):
            raise
        readable = error.readable.allowing_code() if allow_code else error.readable
        found = _Findings(readable, mistakes=list(error.mistakes), more=error.more)
    _look(found.recipe, found)
    found.check()
    raise AssertionError("the mistakes of the recipe are among the findings")


def check_inputs(recipe: Recipe) -> Seen:
    """Check all that a recipe reads and that can be looked at before anything long begins.

    Raises `RecipeError` or `EnvironmentMismatch` with a line for everything that is wrong.
    """
    found = _Findings(recipe)
    seen = _look(recipe, found)
    found.check()
    return seen


def check_machine(recipe: Recipe) -> Seen:
    """Check what `check_inputs` does, and output directory and ONNX Runtime of this machine.

    A run looks at those by itself, where its output may be another. Raises as `check_inputs`.
    """
    found = _Findings(recipe)
    seen = _look(recipe, found)
    if recipe.output is not None:
        with found.collect():
            check_output(recipe.output, force=False, inputs=local_inputs(recipe))
    _look_at_runtime(recipe, found)
    found.check()
    return seen


def check_runtime(recipe: Recipe) -> None:
    """Check the providers and the operator set that a recipe asks for.

    Where ONNX Runtime lacks one, all that is wrong with the recipe's inputs is told too. Raises as
    `check_inputs`.
    """
    found = _Findings(recipe)
    _look_at_runtime(recipe, found)
    if found.problems:
        _look(recipe, found)
    found.check()


def _look_at_runtime(recipe: Recipe, found: _Findings) -> None:
    """Look for providers and operator set, where the recipe asks for more than the CPU's own."""
    compared = recipe.benchmark.runtimes
    providers = dict.fromkeys(
        (
            recipe.export.judged_on,
            *recipe.benchmark.providers,
            *(name for name in compared if name == "openvino"),
        )
    )
    opset = recipe.export.opset
    asks_opset = opset is not None and not surely_runs(opset)
    if set(providers) <= {"cpu"} and not asks_opset:
        return
    with found.collect():
        # A second, so only where it is asked.
        from compressor.models.onnx_model import check_opset, check_provider

        for provider in providers:
            is_judged = provider == recipe.export.judged_on
            is_timed = provider in recipe.benchmark.providers
            key = "benchmark.providers" if is_timed else "benchmark.runtimes"
            key = "export.provider" if is_judged else key
            with found.collect():
                try:
                    check_provider(provider, precision=recipe.export.precision)
                except EnvironmentMismatch as error:
                    raise EnvironmentMismatch(recipe.describe(key, str(error))) from error
        if opset is not None and asks_opset:
            check_opset(opset)


def _look(recipe: Recipe, found: _Findings) -> Seen:
    """Collect what is wrong, each thing as far as what it depends on is right."""
    code_runs = False
    with found.collect():
        recipe.require_own_code()
        code_runs = True
    for check in (
        check_task,
        check_local_checkpoints,
        check_text_inputs,
        check_local_passes,
        check_packages,
    ):
        with found.collect():
            check(recipe)
    task, metric, labels = known_task(recipe), known_metric(recipe), known_labels(recipe)
    before = len(found.mistakes) + len(found.problems)
    sound = [name for name in recipe.data.given if _has_columns(recipe, name, task, metric, found)]
    with found.collect():
        check_plan(recipe.data.given, needed_splits(recipe))
    with found.collect():
        # Of a file of the wrong kind the number of rows is wrong too.
        if "search" in sound or recipe.data.search is None:
            check_resolution(recipe)
    splits: dict[str, Dataset] = {}
    with found.collect():
        if code_runs:
            splits = _rows(recipe, task, metric, labels, sound)
    is_whole = len(found.mistakes) + len(found.problems) == before
    return Seen(task, metric, labels, splits if is_whole else {})


def _has_columns(
    recipe: Recipe, name: str, task: str | None, metric: str | None, found: _Findings
) -> bool:
    """Return whether the file of a split is there and has its columns; collect why it has not."""
    with found.collect():
        if recipe.data.preprocess is not None:  # which columns there are only its rows can tell
            check_present(recipe.data, name)
            return True
        check_split(
            recipe.data,
            name,
            labelled=recipe.budget.max_recall_drop is not None
            or (metric is not None and _needs_labels(task, metric)),
            keep=recipe.kept_columns().get(name, ()),
            input_column=None if task is None else task_class(task).input_column,
        )
        return True
    return False


def _needs_labels(task: str | None, metric: str) -> bool:
    """Return whether rows to be scored need a label column."""
    if find_metric(metric).label_free:
        return False
    return task is None or load_task(task).columns(metric).needs_labels


def _rows(
    recipe: Recipe,
    task: str | None,
    metric: str | None,
    labels: tuple[str, ...] | None,
    sound: Sequence[str],
) -> dict[str, Dataset]:
    """Read the rows of texts as a run would; of images and of large files the labels alone.

    Where some splits cannot be read, the others are read without what is cut from them, and the
    result is empty.
    """
    if task is None or metric is None:
        return {}
    kind: Task = load_task(task, **recipe.model.task_options)
    if kind.has_head and kind.names_labels and labels is None:
        return {}  # a checkpoint on the Hub, or one that is told to be broken
    if lies_here(recipe.model.checkpoint):
        files = describe_checkpoint(recipe.model.checkpoint, base=recipe.model.base)
        kind = kind if files is None else kind.as_saved(files.directory)
    given = recipe.data.given
    is_text = kind.input_column == "text"
    size = sum(path.stat().st_size for name in sound for path in given[name].files)
    lies_elsewhere = any(not given[name].files for name in sound)
    if not is_text or size > _READ_AT_ONCE or lies_elsewhere:
        if recipe.data.preprocess is None:
            check_label_columns(recipe)
        return {}
    if (own := recipe.own_metric) is not None:
        kind = with_own_metric(kind, own, labels or ())
    is_all = len(sound) == len(given)
    splits = read_splits(
        recipe,
        task=kind,
        label_names=labels or (),
        metric=metric,
        only=None if is_all else sound,
    )
    return splits if is_all else {}
