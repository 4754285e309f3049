"""Int8 for NVIDIA GPUs: signed quantize-dequantize pairs, which TensorRT turns into int8 matmuls.

CUDA itself has no kernels for the integer matmuls that the other int8 passes make. TensorRT has,
where a graph says with QDQ operators which matmuls to compute in int8 and with which scales
(`onnx_graph/qdq.py`). Which scale an activation gets is found on unlabelled rows, with the same
running statistics as in `quantize_static`; it has to fit all tokens, on both sides of zero.

The rest of the graph stays as it is: in float32, or in float16 with `convert_fp16` after this pass,
which leaves every integer where it was.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from onnx import ModelProto

from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import AS_WRITTEN
from compressor.onnx_graph.activation_ranges import signed_scale
from compressor.onnx_graph.qdq import OLDEST_OPSET, SignedScales, insert_qdq
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import chosen_scales, note_fixed_scales, observe
from compressor.passes.quantize.int8 import note_smoothed, smooth_by_rows
from compressor.passes.quantize.quantization import (
    check_opset,
    find_weights,
    finite_numbers_expected,
)
from compressor.passes.quantize.sensitivity import note_kept, weights_to_keep
from compressor.passes.quantize.settings import QuantizeTensorrt
from compressor.words import counted, verb_for

logger = logging.getLogger(__name__)


def apply(settings: QuantizeTensorrt, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the graph with QDQ and return it.

    Activations are observed in float on the CPU, whichever provider the graph is for.

    Raises `StepFailed` for what `find_weights` cannot take, when the graph has operators that
    TensorRT cannot read or is of an older operator set than 13, and when a weight, an observed
    activation or, for `keep_sensitive`, a logit is not finite.
    """
    on_cpu = OnnxModel(model.path, threads=model.threads, settings=AS_WRITTEN)
    quantization = find_weights(settings, on_cpu, context)
    _check_operators(quantization.graph)
    with finite_numbers_expected():
        smoothed = smooth_by_rows(quantization, together=True)
        found = observe(quantization)
        scales = SignedScales(chosen_scales(found, settings, signed_scale))
        note_fixed_scales(quantization, found)
        kept = weights_to_keep(quantization, activations=scales)
        stored = quantization.without(kept).weights
        insert_qdq(quantization.graph, stored, scales)
    path = quantization.save().path
    done = (
        f"{counted(len(stored), 'matrix', 'matrices')} {verb_for(len(stored), 'holds', 'hold')} "
        f"int8 weights in signed pairs, {sum(weight.num_elements for weight in stored):,} in all"
    )
    logger.info("%s: %s", settings.kind, done)
    context.note(f"{done}.")
    quantization.note_leftovers()
    note_smoothed(smoothed, context)
    note_kept(kept, settings, context)
    if model.provider != "tensorrt":
        context.note(f"Judged on the provider {model.provider}, not on TensorRT.")
    return replace(model, path=path)


def _check_operators(graph: ModelProto) -> None:
    """Refuse what TensorRT cannot read, before anything is run."""
    foreign = {
        f"{node.domain}:{node.op_type}"
        for node in graph.graph.node
        if node.domain not in ("", "ai.onnx")
    }
    if foreign:
        raise StepFailed(
            f"TensorRT cannot read {', '.join(sorted(foreign))}; export the model with "
            f"export.provider: tensorrt, which leaves such operators out"
        )
    check_opset(graph, OLDEST_OPSET, "scales for each column of a weight")
