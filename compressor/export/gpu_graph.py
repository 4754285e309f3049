"""Rewrites an exported graph into what ONNX Runtime's CUDA provider runs with the fewest kernels.

The exporter's fusions for CUDA stay: `MultiHeadAttention`, `SkipLayerNormalization` and `BiasGelu`
are kernels of the provider in float32, float16 and bfloat16. What tracing wrote around them goes:
masks computed by looking positions up, a choice after each attention for rows that attend to
nothing, reshapes there and back, and the last layer for tokens that nobody reads. Besides the time,
nothing is left that one of the providers has to copy to another, so that a run can be recorded as a
CUDA graph. The numbers stay what they were.

Not done is to tell the kernel of `MultiHeadAttention` the lengths of the rows in place of a mask to
add: which of its kernels takes which form differs between GPUs, and nothing was measured. Reading
its source, the mask makes it compute attention unfused where the number of tokens is not a multiple
of 8 in float16 (of 16 in float32), so batches padded to multiples of 8 should be faster.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    RemoveUnusedNodesPass,
)

from compressor.export.attention_operator import remove_round_trips
from compressor.export.graph_values import dims
from compressor.export.padding_masks import simplify_padding_masks
from compressor.export.unread_positions import drop_unread_positions


def optimize_for_cuda(model: ir.Model) -> None:
    """Rewrite `model`, which the exporter fused, for the CUDA provider, in place."""
    graph = model.graph
    describe_attentions(graph)
    simplify_padding_masks(graph)
    remove_round_trips(graph)
    RemoveUnusedNodesPass()(model)
    drop_unread_positions(graph)
    RemoveUnusedNodesPass()(model)
    CommonSubexpressionEliminationPass()(model)


def describe_attentions(graph: ir.Graph) -> None:
    """Write down the shapes that fused attentions give, which the exporter leaves out, in place."""
    for node in graph:
        if node.op_type != "MultiHeadAttention" or node.outputs[0].shape is not None:
            continue
        query, value = dims(node.inputs[0]), dims(node.inputs[2])
        if query is not None and value is not None and len(query) == len(value) == 3:
            node.outputs[0].shape = ir.Shape((*query[:2], value[2]))
            node.outputs[0].dtype = ir.DataType.FLOAT
