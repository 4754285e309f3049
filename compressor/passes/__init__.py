"""The passes: one table from the word in a recipe to the settings of a pass."""

from __future__ import annotations

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
from compressor.passes.describe import SettingDescription, pass_settings
from compressor.passes.distill.settings import Distill
from compressor.passes.finetune.settings import Finetune
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.prune_structured.settings import PruneStructured
from compressor.passes.prune_width.settings import PruneWidth
from compressor.passes.quantize.auto import QuantizeAuto
from compressor.passes.quantize.dynamic import QuantizeDynamic
from compressor.passes.quantize.static import QuantizeStatic
from compressor.passes.quantize.tensorrt import QuantizeTensorrt
from compressor.passes.quantize.weights import QuantizeWeights
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.passes.trim_vocabulary.settings import TrimVocabulary

__all__ = [
    "PASSES",
    "About",
    "Ahead",
    "NothingToRemove",
    "OnnxPass",
    "Pass",
    "PassContext",
    "PassGroup",
    "SettingDescription",
    "TorchPass",
    "pass_settings",
]

PASSES: dict[str, type[Pass]] = {
    "convert_fp16": ConvertFp16,
    "distill": Distill,
    "finetune": Finetune,
    "prune_magnitude": PruneMagnitude,
    "prune_structured": PruneStructured,
    "prune_width": PruneWidth,
    "quantize_auto": QuantizeAuto,
    "quantize_aware_train": QuantizeAwareTrain,
    "quantize_dynamic": QuantizeDynamic,
    "quantize_static": QuantizeStatic,
    "quantize_tensorrt": QuantizeTensorrt,
    "quantize_weights": QuantizeWeights,
    "trim_vocabulary": TrimVocabulary,
}
