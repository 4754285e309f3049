"""Rewrites an exported graph into what OpenVINO's CPU plugin runs with the fewest operators.

What is fast in ONNX Runtime on the CPU is fast there too: of MiniLM in fp32, the graph of
`cpu_graph.py` took 0.84 of the time of the plain export. Two things are left. OpenVINO fuses the
scales of an int8 matmul and one bias into it, but not where a `Split` stands before the bias; and
it multiplies queries by the scale of attention in an operator of its own. With the biases of query,
key and value before their `Split`, and the scale inside the weights of the query, an int8 MiniLM
took 0.96 of the time with one row and 0.95 with 32 (OpenVINO 2026.4 on a CPU with AMX, one
thread).

ONNX Runtime runs the result as well.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compressor.export.cpu_graph import optimize_for_cpu
from compressor.export.graph_values import (
    constant,
    dims,
    insert,
    new_constant,
    producer,
    replace,
    scalar,
)

Floats = NDArray[np.float32]


def optimize_for_openvino(model: ir.Model, *, opset: int) -> None:
    """Rewrite `model`, which the exporter fused, for OpenVINO, in place.

    `opset` is as for `optimize_for_cpu`.
    """
    optimize_for_cpu(model, opset=opset)
    add_biases_before_splits(model.graph)
    scale_queries(model.graph)
    RemoveUnusedNodesPass()(model)


def add_biases_before_splits(graph: ir.Graph) -> int:
    """Add to a packed product what is added to each of its parts, in place; return how many.

    A `Split` stays where one of its parts has another use, or no constant added to it.
    """
    done = 0
    for node in list(graph):
        if node.op_type != "Split" or producer(node.inputs[0], "MatMul") is None:
            continue
        added = [_bias_of(part) for part in node.outputs]
        biases = [bias for bias in added if bias is not None]
        packed = node.inputs[0]
        if len(biases) < len(added) or packed is None or not _has_one_use(packed):
            continue
        joined = np.concatenate([bias for _, bias in biases])
        value = new_constant(graph, f"{packed.name}_bias", joined)
        total = insert(node, "Add", [packed, value], f"{packed.name}_biased", dims(packed))
        node.replace_input_with(0, total)
        for part, (addition, _) in zip(node.outputs, biases, strict=True):
            replace(addition.outputs[0], part)
            graph.remove(addition, safe=True)
        done += 1
    return done


def scale_queries(graph: ir.Graph) -> int:
    """Multiply the weights of queries by the scale of their attention, in place; return how many.

    The scale stays where it is for weights that something else reads too, such as those that layers
    share.
    """
    done = 0
    for node in list(graph):
        if node.op_type != "Mul" or (factor := _factor(node)) is None:
            continue
        scores = next(value for value in node.inputs if scalar(value) is None)
        assert scores is not None
        found = _query_of(scores)
        if found is None:
            continue
        for value, columns in found:
            _multiply(value, columns, factor)
        replace(node.outputs[0], scores)
        graph.remove(node, safe=True)
        done += 1
    return done


def _factor(node: ir.Node) -> float | None:
    """Return the constant that a `Mul` multiplies by, None where there is none or are two."""
    found = [number for value in node.inputs if (number := scalar(value)) is not None]
    return found[0] if len(found) == 1 else None


def _query_of(scores: ir.Value) -> list[tuple[ir.Value, slice]] | None:
    """Return weight and bias that scores are a multiple of, with the columns of the query.

    None for what is no product of queries and keys, and where anything else would be multiplied.
    """
    product = producer(scores, "MatMul")
    value = None if product is None else product.inputs[0]
    chain = [scores]
    for operator in ("Transpose", "Reshape"):
        if (node := producer(value, operator)) is None or value is None:
            return None
        chain.append(value)
        value = node.inputs[0]
    columns = slice(None)
    if value is not None and (split := producer(value, "Split")) is not None:
        chain.append(value)
        sizes = constant(split.inputs[1]) if len(split.inputs) > 1 else None
        place = list(split.outputs).index(value)
        if sizes is None or split.attributes.get_int("axis", 0) != -1:
            return None
        start = int(sizes[:place].sum())
        columns = slice(start, start + int(sizes[place]))
        value = split.inputs[0]
    addition = producer(value, "Add")
    if addition is None or value is None:
        return None
    chain.append(value)
    sides = [side for side in addition.inputs if producer(side, "MatMul") is not None]
    biases = [side for side in addition.inputs if constant(side) is not None]
    if len(sides) != 1 or len(biases) != 1 or sides[0] is None or biases[0] is None:
        return None
    matmul = producer(sides[0], "MatMul")
    assert matmul is not None
    weight, bias = matmul.inputs[1], biases[0]
    chain.append(sides[0])
    own = constant(weight)
    if weight is None or own is None or own.ndim != 2 or own.dtype != np.float32:
        return None
    if not all(_has_one_use(item) for item in (*chain, weight, bias)):
        return None
    return [(weight, columns), (bias, columns)]


def _multiply(value: ir.Value, columns: slice, factor: float) -> None:
    """Multiply columns, along the last axis, of a constant."""
    found = constant(value)
    assert found is not None
    changed = np.array(found)
    changed[..., columns] *= np.float32(factor)
    value.const_value = ir.tensor(changed, name=value.name)


def _bias_of(part: ir.Value) -> tuple[ir.Node, Floats] | None:
    """Return the node that adds a constant row to `part` and is all that reads it."""
    width = (dims(part) or (None,))[-1]
    if not _has_one_use(part):
        return None
    [(node, _)] = part.uses()
    if node.op_type != "Add":
        return None
    found = next((item for side in node.inputs if (item := constant(side)) is not None), None)
    if found is None or found.shape != (width,) or found.dtype != np.float32:
        return None
    return node, found


def _has_one_use(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()
