"""The passes: one table from the word in a recipe to the settings of a pass and its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.passes.base import (
    About,
    Ahead,
    NothingToRemove,
    OnnxPass,
    Pass,
    PassContext,
    PassGroup,
    TorchPass,
)
from compressor.passes.convert_fp16.settings import ConvertFp16
from compressor.passes.cut_vectors.settings import CutVectors
from compressor.passes.describe import SettingDescription, pass_settings
from compressor.passes.distill.settings import Distill
from compressor.passes.factorize_embeddings.settings import FactorizeEmbeddings
from compressor.passes.finetune.settings import Finetune
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.passes.quantize.settings import (
    QuantizeAuto,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeTensorrt,
    QuantizeWeights,
)
from compressor.passes.quantize.vector_settings import QuantizeVectors
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.passes.trim_vocabulary.settings import TrimVocabulary

if TYPE_CHECKING:
    from compressor.models.torch_model import TorchModel

__all__ = [
    "PASSES",
    "About",
    "Ahead",
    "NothingToRemove",
    "OnnxPass",
    "Pass",
    "PassContext",
    "PassEntry",
    "PassGroup",
    "SettingDescription",
    "TorchPass",
    "Work",
    "apply_pass",
    "look_ahead",
    "pass_settings",
    "settings_of",
    "work_of",
]

Model = TypeVar("Model")  # a `TorchModel` or an `OnnxModel`


@dataclass(frozen=True)
class PassEntry:
    """A pass: its settings, and where its work is."""

    settings: type[Pass]
    # The module with `apply(settings, model, context)`, which returns the compressed model, and,
    # for what that could not do with an architecture or a tokenizer, `look_ahead(settings, model,
    # ahead)`. It is imported when the pass runs, because it loads torch or ONNX Runtime.
    work: str


@dataclass(frozen=True)
class Work:
    """What the module of a pass does."""

    apply: Callable[[Any, Any, PassContext], Any]
    look_ahead: Callable[[Any, TorchModel, Ahead], TorchModel] | None


PASSES: dict[str, PassEntry] = {
    "convert_fp16": PassEntry(ConvertFp16, "compressor.passes.convert_fp16.apply"),
    "cut_vectors": PassEntry(CutVectors, "compressor.passes.cut_vectors.apply"),
    "distill": PassEntry(Distill, "compressor.passes.distill.apply"),
    "factorize_embeddings": PassEntry(
        FactorizeEmbeddings, "compressor.passes.factorize_embeddings.apply"
    ),
    "finetune": PassEntry(Finetune, "compressor.passes.finetune.apply"),
    "prune_magnitude": PassEntry(PruneMagnitude, "compressor.passes.prune_magnitude.apply"),
    "prune_structured": PassEntry(PruneStructured, "compressor.passes.prune_structured.apply"),
    "quantize_auto": PassEntry(QuantizeAuto, "compressor.passes.quantize.auto"),
    "quantize_aware_train": PassEntry(
        QuantizeAwareTrain, "compressor.passes.quantize_aware_train.apply"
    ),
    "quantize_dynamic": PassEntry(QuantizeDynamic, "compressor.passes.quantize.dynamic"),
    "quantize_static": PassEntry(QuantizeStatic, "compressor.passes.quantize.static"),
    "quantize_tensorrt": PassEntry(QuantizeTensorrt, "compressor.passes.quantize.tensorrt"),
    "quantize_vectors": PassEntry(QuantizeVectors, "compressor.passes.quantize.vectors"),
    "quantize_weights": PassEntry(QuantizeWeights, "compressor.passes.quantize.weights"),
    "trim_vocabulary": PassEntry(TrimVocabulary, "compressor.passes.trim_vocabulary.apply"),
}


def settings_of(given: Mapping[str, object]) -> Pass:
    """Return the settings `given`, as a recipe has them, of the pass that their `kind` names.

    Raises pydantic's `ValidationError` when they are wrong.
    """
    return PASSES[str(given["kind"])].settings.of(given)


def work_of(step: Pass) -> Work:
    """Import and return the work of a pass, whose kind `PASSES` lists."""
    module = import_module(PASSES[step.kind].work)
    return Work(module.apply, getattr(module, "look_ahead", None))


def apply_pass(step: Pass, model: Model, context: PassContext) -> Model:
    """Return the model that a pass makes of `model`.

    A `TorchPass` owns the model and may change it; an `OnnxPass` writes a new file into
    `context.work_dir`. Raises `StepFailed` when it cannot be done.
    """
    changed: Model = work_of(step).apply(step, model, context)
    return changed


def look_ahead(step: TorchPass, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Raise `StepFailed` for what `apply_pass` could not do with this architecture or tokenizer.

    `model` is what the one that the pass will get is made of. Returns that of later passes.
    """
    looks = work_of(step).look_ahead
    return model if looks is None else looks(step, model, ahead)
