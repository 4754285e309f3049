"""Int8 weights, and activations whose scales calibration fixed beforehand.

Nothing about a scale is computed at run time, so a matmul takes the least time an integer matmul
can, and no prediction depends on its batch. The price is one scale for all tokens there will ever
be; which range it stands for is chosen on unlabelled rows, with running statistics
(`onnx_graph/observers.py`, `onnx_graph/activation_ranges.py`). Weights, tables and everything else
are as in `quantize_dynamic`.
"""

from __future__ import annotations

from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.matmul_biases import move_biases_into_matmuls
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import fixed_scales, note_fixed_scales, observe
from compressor.passes.quantize.int8 import reorder, save_int8, smooth, store_int8
from compressor.passes.quantize.quantization import find_weights, finite_numbers_expected
from compressor.passes.quantize.settings import QuantizeStatic
from compressor.words import counted, verb_for


def apply(settings: QuantizeStatic, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the int8 graph and return it.

    Raises `StepFailed` for what `find_weights` cannot take, and when a weight, an observed
    activation or, for `keep_sensitive`, a logit is not finite.
    """
    quantization = find_weights(settings, model, context)
    with finite_numbers_expected():
        smoothed = smooth(quantization)
        reordered = reorder(quantization)
        found = observe(quantization)
        scales = fixed_scales(quantization, found)
        note_fixed_scales(quantization, found)
        stored = store_int8(quantization, scales)
    if settings.biases == "in_matmuls":
        moved = move_biases_into_matmuls(quantization.graph)
        context.note(f"{counted(moved, 'matmul')} {verb_for(moved, 'adds', 'add')} the bias too.")
    return save_int8(quantization, stored, smoothed=smoothed, reordered=reordered)
