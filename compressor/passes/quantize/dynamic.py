"""Int8 weights, activations quantized at run time: four times smaller, faster on CPUs, no data.

Weights have one scale for each output column (Jacob et al. 2018, arXiv:1712.05877), embedding
tables one for each row (as in Zafrir et al. 2019, arXiv:1910.06188, for BERT). Scales are chosen so
that ONNX Runtime's 16-bit sums cannot overflow on CPUs without VNNI (`onnx_graph/affine.py`), and
the channels inside feed-forward blocks are reordered so that this costs next to no precision
(`onnx_graph/reorder_channels.py`). Activations have one scale for each token (as in Yao et al.
2022, arXiv:2206.01861), because one for the whole batch is where most of the error came from
(`onnx_graph/quantized_activations.py`).
"""

from __future__ import annotations

from compressor.models.onnx_model import OnnxModel
from compressor.passes.base import PassContext
from compressor.passes.quantize.int8 import reorder, save_int8, smooth_after_norms, store_int8
from compressor.passes.quantize.quantization import find_weights, finite_numbers_expected
from compressor.passes.quantize.settings import QuantizeDynamic


def apply(settings: QuantizeDynamic, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the int8 graph and return it.

    Raises `StepFailed` for what `find_weights` cannot take, and when a weight or, for
    `keep_sensitive`, a logit is not finite.
    """
    quantization = find_weights(settings, model, context)
    with finite_numbers_expected():
        smoothed = smooth_after_norms(quantization)
        reordered = reorder(quantization)
        stored = store_int8(quantization, settings.activations)
    return save_int8(quantization, stored, smoothed=smoothed, reordered=reordered)
