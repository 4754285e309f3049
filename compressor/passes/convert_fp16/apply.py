"""Float16 or bfloat16 for GPUs: half the size, and tensor cores do the matmuls.

Weights and activations become float16 (Micikevicius et al. 2018, arXiv:1710.03740) or bfloat16
(Kalamkar et al. 2019, arXiv:1905.12322); inputs and outputs stay as they are, and so do the nodes
whose numbers do not fit: they are found by running real rows through the float graph.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from math import prod

import onnx

from compressor.errors import StepFailed
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.onnx_graph.quantizable_weights import integer_operators, lift_constants
from compressor.passes.base import PassContext
from compressor.passes.convert_fp16.float16 import (
    NotFinite,
    bound_masks,
    convert_to_float16,
    float_nodes,
    node_name,
)
from compressor.passes.convert_fp16.measure import nodes_out_of_range, parity, sensitive_nodes
from compressor.passes.convert_fp16.settings import ConvertFp16
from compressor.words import counted, listing, verb_for

logger = logging.getLogger(__name__)

_QDQ = frozenset(("DequantizeLinear", "QuantizeLinear"))  # what TensorRT reads int8 from


def apply(settings: ConvertFp16, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the converted graph and return it.

    Raises `StepFailed` when the graph has no float32 weights or integer operators, when a pattern
    of `keep_in_float` matches nothing, when a weight or a value of the float graph is not finite,
    and when a logit of the converted graph is not.
    """
    graph = load_graph(model.path)
    if not _QDQ.issuperset(present := integer_operators(graph)):
        raise StepFailed(
            f"the graph is quantized (it has {', '.join(present)}), and GPUs have no kernels for "
            f"that; use quantize_tensorrt in place of the quantizing pass, or remove it"
        )
    lift_constants(graph)
    before = _float_weights(graph)
    if not before:
        raise StepFailed(
            "the graph has no float32 weights: remove one of two fp16 passes, or, where weights "
            "are inputs of the graph, export the model with its weights inside"
        )
    bound_masks(graph)
    named = _named(settings, graph)
    path = context.work_dir / "model.onnx"
    try:
        kept = named | _measured(settings, named, graph, model, context)
        converted = convert_to_float16(graph, in_float=kept, dtype=settings.dtype)
        save_graph(converted, path)
        if settings.required_splits():
            _note_parity(graph, converted, model, context)
    except NotFinite as error:
        raise StepFailed(f"{error}; the checkpoint or the pass before is broken") from error
    except StepFailed as error:
        raise StepFailed(
            f"{error}; name the nodes that need float32 in keep_in_float, or use search_ranges"
        ) from error
    weights = counted(before, "weight")
    done = f"{before - _float_weights(converted):,} of {weights} are {settings.dtype}"
    logger.info("convert_fp16: %s", done)
    context.note(f"{done}.")
    return OnnxModel(path, provider=model.provider, threads=model.threads)


def _named(settings: ConvertFp16, graph: onnx.ModelProto) -> frozenset[str]:
    """Return the nodes that `keep_in_float` names."""
    nodes = list(float_nodes(graph))
    weights = {tensor.name for tensor in graph.graph.initializer}
    kept: set[str] = set()
    for position, pattern in enumerate(settings.keep_in_float):
        matching = {
            node_name(node)
            for node in nodes
            if any(
                fnmatchcase(name, pattern)
                for name in (node.op_type, node_name(node), *weights.intersection(node.input))
            )
        }
        if not matching:
            operators = sorted({node.op_type for node in nodes})
            raise StepFailed(
                f"keep_in_float[{position}]: '{pattern}' matches no operator, node or weight; "
                f"operators are {', '.join(operators)}, nodes {listing(map(node_name, nodes))}"
            )
        kept |= matching
    return frozenset(kept)


def _measured(
    settings: ConvertFp16,
    named: frozenset[str],
    graph: onnx.ModelProto,
    model: OnnxModel,
    context: PassContext,
) -> set[str]:
    """Return the nodes that calibration rows show to need float32, besides those that are named."""
    kept: set[str] = set()
    if settings.searches:
        found = nodes_out_of_range(graph, model, context)
        kept |= {item.name for item in found}
        if found:
            reasons = [f"{item.name} ({item.operator}) {item.reason}" for item in found]
            context.note(f"In float32, out of the range of float16: {listing(reasons)}.")
    if settings.keep_sensitive:
        sensitive = sensitive_nodes(
            graph,
            named | kept,
            settings.keep_sensitive,
            dtype=settings.dtype,
            model=model,
            context=context,
        )
        kept |= set(sensitive)
        context.note(f"In float32, the most sensitive: {listing(sensitive)}.")
    return kept


def _note_parity(
    graph: onnx.ModelProto, converted: onnx.ModelProto, model: OnnxModel, context: PassContext
) -> None:
    """Record how far the outputs move on the calibration rows."""
    found = parity(graph, converted, model=model, context=context)
    context.record("half_parity", found.fact())
    flips = ""
    if found.flips is not None:
        verb = verb_for(found.flips, "changes", "change")
        flips = f", and {counted(found.flips, 'prediction')} {verb}"
    context.note(
        f"On {counted(found.rows, 'calibration row')}, {found.output_words} differ from float32 "
        f"by up to {found.max_abs_diff:.2g}{flips}, on the provider {found.provider}."
    )


def _float_weights(model: onnx.ModelProto) -> int:
    """Return the number of float32 elements among the constants, single ones left out."""
    float32 = onnx.TensorProto.FLOAT
    sizes = (prod(item.dims) for item in model.graph.initializer if item.data_type == float32)
    return sum(size for size in sizes if size > 1)
