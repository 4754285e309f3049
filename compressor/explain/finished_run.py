"""A run that has ended, with all that it takes to ask both its ends about its rows again.

What a run wrote stays where it is; the checkpoint and the rows lie elsewhere, and may have moved or
changed since. Explanations of other rows, or of another model, would be believed like any, so both
are compared with what the report says of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.artifact import MODEL
from compressor.attribution.occlusion import Reader
from compressor.data import Dataset, fingerprint
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.measurements import RunReport
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import AS_WRITTEN, PLAIN
from compressor.models.torch_model import TorchModel, load_foreign, load_preprocessor
from compressor.paths import is_folder
from compressor.pipeline.builtin_models import resolve_builtin
from compressor.pipeline.wanted_splits import read_splits
from compressor.progress import Progress
from compressor.recipe.recipe import Recipe, load_recipe
from compressor.report.render import read_report
from compressor.tasks import Task, load_task, with_own_metric


@dataclass(frozen=True)
class FinishedRun:
    """Both ends of a run, and the rows that its report compared them on."""

    directory: Path
    report: RunReport
    recipe: Recipe
    task: Task
    files: CheckpointFiles
    split: Dataset
    before: Reader
    after: Reader

    @cached_property
    def checkpoints(self) -> tuple[TorchModel, TorchModel]:
        """Return the untouched checkpoint and the compressed one, in PyTorch.

        Raises `EnvironmentMismatch` where the latter is not there or cannot be read.
        """
        folder = self.directory / "checkpoint"
        if not is_folder(folder):
            raise EnvironmentMismatch(
                f"{folder}: the run kept no PyTorch checkpoint here; run the recipe again"
            )
        compressed = find_checkpoint(str(folder))
        return load_foreign(self.files, self.task), load_foreign(compressed, self.task)


def open_run(directory: Path, *, allow_code: bool, progress: Progress) -> FinishedRun:
    """Read what a run left behind, and load both its graphs.

    Raises `EnvironmentMismatch` where it left no model, or its checkpoint or rows are not there or
    not as they were, and `RecipeError` where its texts may not be quoted or code may not run.
    """
    if not is_folder(directory):
        raise EnvironmentMismatch(
            f"{directory}: is no directory; give the output directory of a run"
        )
    report = read_report(directory)
    _require_models(directory, report)
    recipe = load_recipe(dict(report.recipe))
    recipe = recipe.allowing_code() if allow_code else recipe
    recipe.require_own_code()
    if not recipe.report.examples:
        raise RecipeError(
            [
                f"{directory}: its recipe says report.examples: false, and an explanation quotes "
                f"the words of rows; run the recipe with report.examples: true to explain it"
            ]
        )
    files = _source(recipe, report, progress)
    task = _task(recipe, report, files)
    split = _rows(recipe, report, task)
    provider = recipe.export.judged_on
    settings = PLAIN if provider == recipe.export.provider else AS_WRITTEN
    if provider == "tensorrt":
        raise RecipeError(
            [
                "export.provider: a run judged on TensorRT is not explained, because two engines "
                "would have to be built; run the recipe with export.evaluate_on: cpu"
            ]
        )

    def graph(folder: Path) -> OnnxModel:
        return OnnxModel(folder / MODEL, provider, recipe.benchmark.threads, settings)

    artifact = directory / "artifact"
    own = load_preprocessor(files, task)
    return FinishedRun(
        directory,
        report,
        recipe,
        task,
        files,
        split,
        before=Reader(graph(_baseline(directory)), own),
        after=Reader(graph(artifact), task.load_preprocessor(artifact)),
    )


def _baseline(directory: Path) -> Path:
    return directory / "baseline"


def _require_models(directory: Path, report: RunReport) -> None:
    graphs = {"original": _baseline(directory), "compressed model": directory / "artifact"}
    for who, folder in graphs.items():
        if not (folder / MODEL).is_file():
            ended = "" if report.verdict == "passed" else f" (the run ended: {report.reason})"
            raise EnvironmentMismatch(
                f"{folder / MODEL}: there is no ONNX file of the {who} to explain{ended}; give a "
                f"run that came as far as its artifact, or run it with a budget that it keeps"
            )


def _source(recipe: Recipe, report: RunReport, progress: Progress) -> CheckpointFiles:
    name = resolve_builtin(recipe.model.checkpoint, progress=progress)
    files = find_checkpoint(name, revision=recipe.model.revision, base=recipe.model.base)
    if report.source_sha256 is not None and files.sha256() != report.source_sha256:
        raise EnvironmentMismatch(
            f"model.checkpoint: {name} holds other weights than the run compressed; put the "
            f"checkpoint of then in its place, or run the recipe again"
        )
    return files


def _task(recipe: Recipe, report: RunReport, files: CheckpointFiles) -> Task:
    options = dict(recipe.model.task_options)
    if report.thresholds:
        options["thresholds"] = tuple(report.thresholds.values())
    task = load_task(
        recipe.model.task or files.infer_task(),
        max_length=recipe.data.max_length or recipe.export.max_length,
        **options,
    )
    task = task.fitted_to(files.directory)
    if (function := recipe.own_metric) is not None:
        task = with_own_metric(task, function, files.labels_for(task))
    return task.as_saved(files.directory).for_labels(report.labels)


def _rows(recipe: Recipe, report: RunReport, task: Task) -> Dataset:
    """Return the split that the report compares both ends on, as it was then."""
    name = report.compared_split or "search"
    labels: Any = report.labels
    split = read_splits(recipe, task=task, label_names=labels, metric=str(report.metric))[name]
    known = next((item for item in report.splits if item.name == name), None)
    if known is not None and known.fingerprint != fingerprint(split):
        raise EnvironmentMismatch(
            f"data.{name}: {known.source} holds other rows than the run read; put the rows of then "
            f"in their place, or run the recipe again"
        )
    return replace(split)
