"""What a run refuses, asked of a checkpoint before a recipe is written.

Each question is the one that the run itself asks, so that the two cannot differ: what settings and
architecture say of a pass, whether a row gets one prediction however it is read, and, where
the parts of the encoder are not known, whether its export computes the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from compressor import passes
from compressor.data import Dataset
from compressor.errors import (
    EnvironmentMismatch,
    ExportError,
    RecipeError,
    StepFailed,
)
from compressor.export.to_onnx import export_onnx
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.families import FAMILIES
from compressor.models.probes import Readings
from compressor.models.torch_model import TorchModel
from compressor.passes import Ahead, Pass, TorchPass
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.pipeline.same_prediction import compare_export, require_one_prediction
from compressor.progress import Progress
from compressor.recipe.recipe import Recipe

_PROBED = 1024  # tokens up to which a text as long as the artifact reads is made of several
_FILTERS = (nn.Conv1d, nn.Conv2d)  # that stay in float where most weights are others


def why_not(
    step: Pass, model: TorchModel, files: CheckpointFiles, splits: Mapping[str, Dataset]
) -> str | None:
    """Return why a pass cannot be done with an untouched checkpoint, None where it can.

    `splits` are rows that a training among its settings would read.
    """
    own = files.of_task(model.task)
    told = [
        *step.unfit_for(model.task),
        *step.unfit_to(own, own),
        *step.unfit_labels(own.labels_for(model.task)),
    ]
    if told:
        return told[0][1]
    if isinstance(step, TorchPass):
        try:
            passes.look_ahead(step, model, Ahead(model, splits, seed=0))
        except StepFailed as error:
            return str(error)
    return None


def ask_for_one_prediction(
    model: TorchModel, files: CheckpointFiles, search: Dataset, length: int | None
) -> Readings:
    """Return what a checkpoint predicts for a few rows of search, each read in several ways.

    `length` is how many tokens the artifact reads at most; None for images. A text of more than a
    thousand is not made for it: that takes minutes, and only the run makes one. Raises as
    `require_one_prediction`.
    """
    if length is not None and length > _PROBED:
        counts = model.task.token_counts(model.preprocessor, search.examples)
        assert counts is not None, "texts have tokens"
        length = min(length, max(_PROBED, int(counts.max())))
    return require_one_prediction(model, files, {"search": search}, length, length)[1]


def ask_for_an_export(
    model: TorchModel,
    files: CheckpointFiles,
    known: Readings,
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Export a checkpoint of a model type whose encoder is not known in all its parts, and compare.

    Raises `EnvironmentMismatch` where it cannot be exported, or its file computes something else.
    """
    family = FAMILIES.get(kind := str(model.module.config.model_type))
    if family is not None and not isinstance(family.encoder, str):
        return
    progress.stage(f"try the export: not every model of type '{kind}' can be exported")
    with tempfile.TemporaryDirectory() as folder:
        try:
            place = Path(folder) / "model.onnx"
            exported = export_onnx(model, place, provider=recipe.export.judged_on)
            compare_export(known, exported, model.task, recipe.export.max_parity_diff)
        except ExportError as error:
            why = str(error).replace(folder, files.name)
            raise EnvironmentMismatch(
                f"{files.name}: nothing can be done with it, because {why}"
            ) from error


def ask_for_weights(model: TorchModel, files: CheckpointFiles, *, convolves: bool) -> None:
    """Raise `RecipeError` for a checkpoint of which int8 would store nothing smaller."""
    largest = max(
        (
            weight.numel()
            for part in model.module.modules()
            for weight in part.parameters(recurse=False)
            if weight.ndim > 1 and (convolves or not isinstance(part, _FILTERS))
        ),
        default=0,
    )
    least = QuantizeDynamic.model_validate({}).min_elements
    if largest < least:
        raise RecipeError(
            f"{files.name}: its largest matrix has {largest:,} weights, and int8 "
            f"pays from {least:,} on; give a larger checkpoint, or write a recipe with "
            f"min_elements of your own"
        )
