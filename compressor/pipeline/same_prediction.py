"""Requires that a row gets one prediction, however it is read, before anything is measured on it.

The untouched checkpoint is asked first: a mask that it ignores or padding on the wrong side makes
scores of any of its versions depend on how rows were put together. The model that is exported is
asked again beside the exported file, up to the length that the artifact reads, unless it is the
untouched one, whose outputs are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, ParityError, RecipeError
from compressor.export.parity import check_parity
from compressor.measurements import LengthRecord, Parity
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.guard import foreign
from compressor.models.onnx_model import OnnxModel
from compressor.models.probes import TOLERANCE, Readings, RowDependence, read_probes
from compressor.models.torch_model import TorchModel
from compressor.tasks import Task, texts_of
from compressor.verify.evaluation import measured_lengths, measured_samples, parity_probes
from compressor.words import counted

JUDGED = ("search", "certification")  # the splits that scores of both ends are taken on


def require_one_prediction(
    model: TorchModel,
    files: CheckpointFiles,
    splits: Mapping[str, Dataset],
    limit: int | None,
    max_length: int | None,
) -> tuple[LengthRecord | None, Readings]:
    """Return up to which length rows are measured, None for images, and what the model predicts.

    `model` is the untouched checkpoint, just loaded from `files`; it reads up to `limit` tokens of
    a text and the artifact up to `max_length`. Raises `EnvironmentMismatch` when it gives a row
    several predictions, or none, and `RecipeError` when a length leaves no room for a text.
    """
    _require_room(model, splits["search"], max_length)
    probes = parity_probes(model.task, model.preprocessor, splits["search"], max_length)
    found: Readings | RowDependence
    with foreign(
        f"{files.name}: cannot read its first rows",
        "give a checkpoint whose tokenizer or image processor, config.json and weights go together",
    ):
        try:
            found = read_probes(model, probes, model.task)
        except RowDependence as error:
            found = error
    if isinstance(found, RowDependence):
        raise EnvironmentMismatch(
            f"{files.name}: {found}, so a score would depend on how rows are put together; "
            f"{_advice(model, files.directory)}"
        ) from found
    judged = [splits[name] for name in JUDGED if name in splits]
    own = (model.task, model.preprocessor, judged)
    if max_length is None:
        return measured_samples(*own), found
    return measured_lengths(*own, checkpoint=limit, artifact=max_length), found


def read_exported(model: TorchModel, split: Dataset, max_length: int | None) -> Readings:
    """Return what a model that is exported, and was just loaded, predicts for rows of `split`.

    Raises `ParityError` when it gives a row several predictions.
    """
    probes = parity_probes(model.task, model.preprocessor, split, max_length)
    try:
        return read_probes(model, probes, model.task)
    except RowDependence as error:
        raise ParityError(
            f"the model that is exported: {error}, which the untouched checkpoint's do not; the "
            f"passes before the export are the cause",
            max_abs_diff=error.difference,
            limit=TOLERANCE,
        ) from error


def compare_export(known: Readings, exported: OnnxModel, task: Task, limit: float) -> Parity:
    """Compare an exported file with what its model predicts, as `check_parity` does."""
    read = [probe.inputs for probe in known.probes]
    return check_parity(known, exported, read, limit, task=task)


def _require_room(model: TorchModel, split: Dataset, max_length: int | None) -> None:
    """Raise `RecipeError` where texts are cut to the special tokens around them."""
    if max_length is None:
        return
    is_pair = len(texts_of(split.examples[0])) > 1
    special = int(model.preprocessor.num_special_tokens_to_add(pair=is_pair))
    lengths = {"data.max_length": model.task.max_length, "export.max_length": max_length}
    for key, length in lengths.items():
        if length is not None and length <= special:
            raise RecipeError(
                f"{key}: of {counted(length, 'token')}, {special} are special ones, "
                f"which leaves none for the text; set {special + 1} or more"
            )


def _advice(model: TorchModel, place: Path) -> str:
    """Say what is odd about a checkpoint whose predictions depend on the batch."""
    if model.task.reads_tokens:
        tokenizer, config = model.preprocessor, model.module.config
        pad = getattr(config, "pad_token_id", None)
        settings = place / "tokenizer_config.json"
        if tokenizer.pad_token_id != pad:
            return (
                f"the tokenizer pads with id {tokenizer.pad_token_id}, and config.json says "
                f"pad_token_id {pad}: make them equal"
            )
        if tokenizer.padding_side == "left":
            return f"{settings}: padding_side is left, and most models need right"
        if config.model_type == "xlnet":
            return f"{settings}: padding_side is right, and XLNet needs left"
    return "give a checkpoint whose predictions do not depend on it"
