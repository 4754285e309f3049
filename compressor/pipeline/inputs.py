"""What a run reads, looked at before anything long begins; free of torch and of SciPy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from compressor.data import check_files, check_labels, most_rows
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.measurements import OF_NUMBERS
from compressor.mistakes import Mistake, did_you_mean
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.paths import BUILTIN, HUB_ID, exists, is_folder
from compressor.recipe import Recipe
from compressor.recipe_rules import (
    expected_metric,
    expected_task,
    needs_labels,
    task_conflicts,
)
from compressor.tasks import NO_LIMIT, task_class, task_names


def check_inputs(recipe: Recipe) -> None:
    """Check all that a recipe reads and that can be looked at before anything long begins.

    The headers of data files before the budget is held against the number of rows, because a file
    of the wrong kind has a wrong number of them too; then checkpoints on this machine.

    Raises `EnvironmentMismatch` for what is missing or damaged, `RecipeError` for what is wrong.
    """
    data = recipe.to_dict()
    check_task(recipe)
    try:
        check_files(recipe.data, labelled=needs_labels(data), keep=recipe.kept_columns())
    except RecipeError as error:
        raise recipe.placed(error) from error
    check_resolution(recipe)
    check_local_checkpoints(recipe)
    check_label_columns(recipe)


def check_resolution(recipe: Recipe) -> None:
    """Raise `RecipeError` when the budget is finer than one example of search, if that can be told.

    No row is read, so a split that is cut from another one, or lies on the Hub, is passed over; and
    so is a metric whose score moves by less than an example, or that is not known yet.
    """
    metric = expected_metric(recipe.to_dict())
    if metric is None or metric in OF_NUMBERS:
        return
    source = recipe.data.search
    rows = None if source is None else most_rows(source)
    mistake = recipe.budget.resolution_mistake(rows) if rows else None
    if mistake is not None:
        raise RecipeError(recipe.describe("budget.max_drop", mistake))


def check_task(recipe: Recipe) -> None:
    """Raise `RecipeError` when metric or columns do not fit a task that the recipe does not name.

    A checkpoint on this machine tells the task; of one on the Hub only a metric that no task has
    can be told. Raises `EnvironmentMismatch` where the checkpoint is for no task.
    """
    data, metric = recipe.to_dict(), recipe.budget.metric
    try:
        task = expected_task(data)
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch(recipe.describe("model.checkpoint", str(error))) from error
    mistakes = [] if task is None else list(task_conflicts(data, task))
    if task is None and metric is not None:
        known = sorted({name for task in task_names() for name in task_class(task).metrics})
        if metric not in known:
            unknown = f"no task has a metric '{metric}'{did_you_mean(metric, known)}"
            mistakes.append(Mistake(("budget", "metric"), unknown))
    if mistakes:
        raise RecipeError(
            [recipe.describe(".".join(map(str, item.path)), item.message) for item in mistakes]
        )


def check_label_columns(recipe: Recipe) -> None:
    """Raise `RecipeError` for labels in local files that are none of a checkpoint that lies here.

    Call it when files and checkpoint were found.
    """
    task, checkpoint = expected_task(recipe.to_dict()), Path(recipe.model.checkpoint)
    if task is None or not task_class(task).names_labels or not is_folder(checkpoint):
        return
    needed = {"search", "certification"}
    needed = needed.union(*(step.required_splits() for step in recipe.possible_passes()))
    try:
        check_labels(recipe.data, find_checkpoint(str(checkpoint)).labels, needed)
    except RecipeError as error:
        raise recipe.placed(error) from error


def local_inputs(recipe: Recipe) -> dict[str, Path]:
    """Return the files and folders on this machine that a run reads, by their keys."""
    found: dict[str, Path] = {}
    for name, source in recipe.data.given.items():
        if source.path is not None:
            found[f"data.{name}.path"] = source.path
        elif source.hub is not None and exists(Path(source.hub)):
            found[f"data.{name}.hub"] = Path(source.hub)
    for key, name in _checkpoints(recipe):
        if exists(Path(name)):
            found[key] = Path(name)
    for position, step in enumerate(recipe.passes):
        for setting, path in step.required_files().items():
            found[f"passes.{position}.{setting}"] = path
    return found


def check_local_checkpoints(recipe: Recipe) -> None:
    """Check every checkpoint that is not on the Hub, model, teachers and students.

    Raises `EnvironmentMismatch`, which begins with the key, for the first one that will not do.
    """
    task = expected_task(recipe.to_dict())
    for key, name in _checkpoints(recipe):
        if is_folder(Path(name)) or not HUB_ID.fullmatch(name):
            _check(recipe, key, name, task)


def other_checkpoints(recipe: Recipe, task: str) -> dict[str, CheckpointFiles]:
    """Return every checkpoint besides the model's by its key, fetched where it is on the Hub.

    Raises as `check_local_checkpoints` does.
    """
    return {
        key: _check(recipe, key, name, task)
        for key, name in _checkpoints(recipe)
        if key != "model.checkpoint"
    }


def _checkpoints(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if not recipe.model.checkpoint.startswith(BUILTIN):
        yield "model.checkpoint", recipe.model.checkpoint
    for position, step in enumerate(recipe.passes):
        for role, name in step.required_checkpoints().items():
            yield f"passes.{position}.{role}", name


def _check(recipe: Recipe, key: str, name: str, task: str | None) -> CheckpointFiles:
    try:
        files = find_checkpoint(name)
        # A student may be an encoder that was only pretrained; it then gets a head of its own.
        own_head = task is not None and files.has_head(task)
        if task is not None and (own_head or not key.endswith(".student")):
            files.require_head(task)
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch(recipe.describe(key, str(error))) from error
    return files


def fit_lengths(recipe: Recipe, limits: Mapping[str, int]) -> Recipe:
    """Return `recipe` for models that read so many tokens at most, by their keys in the recipe.

    The lengths that are timed where the recipe names none are cut to what the model reads, or a
    student that takes its place. Raises `RecipeError` for every length that it names and that is
    more, and where nothing says how much the model reads.
    """
    timed, target, longest = recipe.benchmark, recipe.budget.target, recipe.data.max_length
    shipped = {key: limit for key, limit in limits.items() if not key.endswith(".teacher")}
    limit = min(shipped.values())
    if limit >= NO_LIMIT and longest is None:
        why = "neither tokenizer nor config.json says how many tokens the model reads; set it"
        raise RecipeError(recipe.describe("data.max_length", why))
    named: dict[str, tuple[int, ...]] = {}
    if target is not None:
        named["budget.target.sequence_length"] = (target.sequence_length or 0,)
    if timed.providers and "sequence_lengths" in timed.model_fields_set:
        named["benchmark.sequence_lengths"] = timed.sequence_lengths
    mistakes = [
        *_longer({"data.max_length": (longest or 0,)}, limits),
        *_longer(named, shipped),
    ]
    if mistakes:
        raise RecipeError([recipe.describe(*mistake) for mistake in mistakes])
    if "sequence_lengths" in timed.model_fields_set:
        return recipe
    lengths = tuple(dict.fromkeys(min(length, limit) for length in timed.sequence_lengths))
    changed = timed.model_copy(update={"sequence_lengths": lengths})
    return recipe.model_copy(update={"benchmark": changed})


def _longer(
    named: Mapping[str, tuple[int, ...]], limits: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Yield key and reason of every length that is more than one of the models reads."""
    reader, limit = min(limits.items(), key=lambda item: item[1])
    for key, lengths in named.items():
        if max(lengths) > limit:
            yield key, f"{max(lengths)} tokens are more than {reader} reads; set {limit} or less"
