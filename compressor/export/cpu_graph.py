"""Rewrites an exported graph into the operators that ONNX Runtime's CPU provider runs fastest.

The exporter fuses residual and normalisation into `SkipLayerNormalization`, which pays on a GPU.
On the CPU that kernel is slow: on a MiniLM of 6 x 384 the fused fp32 graph took as long as the
plain one (1.02x the speed at batch 1, 0.95x at batch 32); with `Sum` and `LayerNormalization`
instead it took 1.06x in both, and the int8 file made of it went from 1.87x to 2.06x and from 1.97x
to 2.36x. With the standard `Attention`, one mask for all layers and a last layer that computes what
is read, fp32 went on from 1.08x to 1.28x (batch 1) and 1.31x (batch 32), and int8 from 2.13x to
2.67x and from 2.35x to 2.68x (ONNX Runtime 1.32 on a CPU with AVX-512 VNNI, one thread,
interleaved). `Attention` is of operator set 23, which ONNX Runtime runs since 1.23; matmuls and a
softmax in its place run everywhere and take 4 to 11% longer (`tools/race_rewrites.py`).
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)

from compressor.export.attention_operator import (
    ATTENTION_OPSET,
    expand_attention,
    raise_opset,
    remove_round_trips,
    unpack_attention,
    use_attention_operator,
)
from compressor.export.constant_layers import fold_constant_layers
from compressor.export.graph_values import dims, insert, replace
from compressor.export.padding_masks import simplify_padding_masks
from compressor.export.unread_positions import drop_unread_positions

_FUSED = "SkipLayerNormalization"
_LAYER_NORMALIZATION_SINCE = 17  # the operator set that brought it
_DEFAULT_EPSILON = 1e-12  # of the fused operator


def optimize_for_cpu(model: ir.Model, *, opset: int) -> None:
    """Rewrite `model`, which the exporter fused, for the CPU provider and operator set `opset`.

    From 23 on attention is the standard operator, below it is matmuls and a softmax. A graph of
    an earlier set than 23 becomes one of `opset`. Which rewrites are made depends on the graph
    alone and not on a measurement, so the same model gives the same file everywhere. In place.
    """
    graph = model.graph
    split_skip_normalizations(model)
    unpack_attention(model)
    fold_constant_layers(graph)
    if opset >= ATTENTION_OPSET:
        raise_opset(model, opset)
        use_attention_operator(model)
    simplify_padding_masks(graph)
    expand_attention(model)
    remove_round_trips(graph)
    RemoveUnusedNodesPass()(model)
    drop_unread_positions(graph)
    RemoveUnusedNodesPass()(model)
    CommonSubexpressionEliminationPass()(model)


def split_skip_normalizations(model: ir.Model) -> int:
    """Replace each `SkipLayerNormalization` by `Sum` and `LayerNormalization`, in place.

    Returns how many were replaced. `Sum` adds the value, its bias and the residual at once. It is
    not `Add`, because ONNX Runtime turns `Add` before `LayerNormalization` back into the fused
    operator when a session opens. A node stays when its mean or deviation is read, which the
    standard operator computes in another shape, and all stay below operator set 17.
    """
    if model.opset_imports.get("", 0) < _LAYER_NORMALIZATION_SINCE:
        return 0
    fused = [node for node in model.graph if node.op_type == _FUSED and not _reads_statistics(node)]
    for node in fused:
        _split(node)
    return len(fused)


def _reads_statistics(node: ir.Node) -> bool:
    return any(output.uses() or output.is_graph_output() for output in node.outputs[1:3])


def _split(node: ir.Node) -> None:
    value, residual, scale, shift, bias = (*node.inputs, None, None)[:5]
    normalized = node.outputs[0]
    total = node.outputs[3] if len(node.outputs) > 3 else None
    epsilon = node.attributes.get_float("epsilon", _DEFAULT_EPSILON)
    terms = [term for term in (value, bias, residual) if term is not None]
    shape = dims(normalized)
    added = insert(node, "Sum", terms, f"{normalized.name}_sum", shape)
    result = insert(
        node,
        "LayerNormalization",
        [added, scale, *([shift] if shift is not None else [])],
        f"{normalized.name}_split",
        shape,
        attributes={"axis": -1, "epsilon": epsilon},
    )
    replace(normalized, result)
    if total is not None:
        replace(total, added)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
