"""Finds the matmuls of 8-bit integers in a graph, and computes them one by one in NumPy.

The kernels here are ONNX Runtime's operators with the integer matmul left open, so that a graph
can be run with exact matmuls and with those of a CPU without VNNI (`saturation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.narrow_columns import with_int8_constants
from compressor.onnx_graph.packed_weights import multiplies_integers
from compressor.onnx_graph.saturation import PairRisk, pair_risk

Array = NDArray[Any]
Multiply = Callable[[Array, Array], NDArray[np.int64]]  # (M, K) and (K, N) to (M, N)
Inputs = Sequence[Array | None]  # of a node; None where an optional one is left out
Integer = Literal["int8", "uint8", "uint4", "uint2", "unknown"]


@dataclass(frozen=True)
class _Places:
    """Where an operator reads its two factors and their zero points."""

    left: int
    left_zero: int | None  # None: the operator quantizes its activations to unsigned itself
    right: int
    right_zero: int


_OPERATORS = {
    "DynamicQuantizeMatMul": _Places(0, None, 1, 3),
    "MatMulInteger": _Places(0, 2, 1, 3),
    "MatMulIntegerToFloat": _Places(0, 4, 1, 5),
    "QAttention": _Places(0, 6, 1, 7),
    "QGemm": _Places(0, 2, 3, 5),
    "QLinearConv": _Places(0, 2, 3, 5),
    "QLinearMatMul": _Places(0, 2, 3, 5),
    "ConvInteger": _Places(0, 2, 1, 3),
}
_INTEGERS: dict[int, Integer] = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}
_PACKED: dict[int, Integer] = {2: "uint2", 4: "uint4", 8: "uint8"}
# Its kernel gives the weights to the multiplier as the left factor; signed ones are exact there.
_WEIGHTS_ON_THE_LEFT = frozenset(("ConvInteger",))


@dataclass(frozen=True)
class IntegerMatmul:
    """One integer matmul: `weight` is None when both factors are computed at run time.

    `inner` and `columns` are K and N. `risk` is None when the matmul is exact on every CPU by the
    types of its factors, and also when nothing is known about the values of the right-hand one
    (`can_saturate` is then True).
    """

    node: str
    output: str
    operator: str
    weight: str | None
    inner: int | None
    columns: int | None
    activations: Integer
    weights: Integer
    risk: PairRisk | None
    can_saturate: bool
    can_simulate: bool


def find_integer_matmuls(model: onnx.ModelProto) -> tuple[IntegerMatmul, ...]:
    """Return every integer matmul of a graph, in the order of its nodes."""
    model = with_int8_constants(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    types = _element_types(model)
    return tuple(
        _describe(node, tensors, types) if node.op_type in _OPERATORS else _describe_packed(node)
        for node in model.graph.node
        if node.op_type in _OPERATORS or multiplies_integers(node)
    )


def _describe_packed(node: onnx.NodeProto) -> IntegerMatmul:
    """Describe a matmul of packed weights, which is exact on every CPU.

    Four bits times seven fit twice into 16, and for eight bits ONNX Runtime's kernel without VNNI
    masks one of two neighbours before each `vpmaddubsw`; checked by `tools/packed_exactness.py`.
    """
    return IntegerMatmul(
        node=node.name or node.output[0],
        output=node.output[0],
        operator=node.op_type,
        weight=node.input[1],
        inner=attribute(node, "K", None),
        columns=attribute(node, "N", None),
        activations="int8",
        weights=_PACKED.get(attribute(node, "bits", 4), "unknown"),
        risk=None,
        can_saturate=False,
        can_simulate=False,
    )


def _describe(
    node: onnx.NodeProto, tensors: dict[str, TensorProto], types: dict[str, Integer]
) -> IntegerMatmul:
    places = _OPERATORS[node.op_type]
    left: Integer = "uint8"
    if places.left_zero is not None:
        left = _factor_type(node, places.left, places.left_zero, types)
    right = _factor_type(node, places.right, places.right_zero, types)
    name = node.input[places.right]
    matrix = right_matrix(node, tensors)
    # Only unsigned times signed goes through the 16-bit sums.
    mixed = right != "uint8" and left != "int8" and node.op_type not in _WEIGHTS_ON_THE_LEFT
    mixed &= not _convolves_alone(node, tensors)
    risk = pair_risk(matrix) if mixed and matrix is not None and right == "int8" else None
    return IntegerMatmul(
        node=node.name or node.output[0],
        output=node.output[0],
        operator=node.op_type,
        weight=name if name in tensors else None,
        inner=None if matrix is None else matrix.shape[0],
        columns=None if matrix is None else matrix.shape[1],
        activations=left,
        weights=right,
        risk=risk,
        can_saturate=mixed if risk is None else risk.can_saturate,
        can_simulate=matrix is not None and node.op_type in KERNELS,
    )


def right_matrix(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> Array | None:
    """Return the constant right-hand factor as `(K, N)`, None when it is no matrix or no constant.

    A convolution's filter is read as its kernel does: position by position, within each all input
    channels of its group. With several groups, columns meet values of their own group alone.
    """
    tensor = tensors.get(node.input[_OPERATORS[node.op_type].right])
    if tensor is None or tensor.data_type not in _INTEGERS:
        return None
    values: Array = numpy_helper.to_array(tensor)
    if node.op_type in ("QLinearConv", "ConvInteger"):
        return np.moveaxis(values, 1, -1).reshape(len(values), -1).T
    if values.ndim != 2:
        return None
    return values.T if node.op_type == "QGemm" and attribute(node, "transB", 0) else values


def _convolves_alone(node: onnx.NodeProto, tensors: dict[str, TensorProto]) -> bool:
    """Return whether each channel is convolved alone, with kernels that multiply in 32 bits."""
    filters = tensors.get(node.input[_OPERATORS[node.op_type].right])
    if node.op_type != "QLinearConv" or filters is None:
        return False
    return filters.dims[1] == 1 and bool(attribute(node, "group", 1) == filters.dims[0])


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or `default` where it is left out."""
    found = (helper.get_attribute_value(item) for item in node.attribute if item.name == name)
    return next(found, default)


def _factor_type(
    node: onnx.NodeProto, value: int, zero_point: int, types: dict[str, Integer]
) -> Integer:
    """Return the type of a factor: its own where known, else that of its zero point."""
    names = [node.input[place] for place in (value, zero_point) if place < len(node.input)]
    return next((types[name] for name in names if name in types), "unknown")


def _element_types(model: onnx.ModelProto) -> dict[str, Integer]:
    """Return the 8-bit types that the graph states or that an operator fixes."""
    graph = model.graph
    types: dict[str, Integer] = {}
    for tensor in graph.initializer:
        if tensor.data_type in _INTEGERS:
            types[tensor.name] = _INTEGERS[tensor.data_type]
    for info in (*graph.input, *graph.value_info):
        if info.type.tensor_type.elem_type in _INTEGERS:
            types[info.name] = _INTEGERS[info.type.tensor_type.elem_type]
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            types[node.output[0]] = types[node.output[2]] = "uint8"
        elif node.op_type == "QuantizeLinear":
            stated = types.get(node.input[2]) if len(node.input) > 2 else "uint8"
            types[node.output[0]] = stated or "unknown"
    return types


def _integer_matmul(
    left: Array, right: Array, left_zero: Array | None, right_zero: Array | None, matmul: Multiply
) -> NDArray[np.int64]:
    """Return `(left - left_zero) @ (right - right_zero)`; only the unsigned one is `matmul`'s."""
    rows = left.reshape(-1, left.shape[-1])
    raw = matmul(rows, right)
    zero_a = np.int64(0) if left_zero is None else left_zero.astype(np.int64).reshape(-1)[0]
    zero_b = np.zeros(1, np.int64) if right_zero is None else right_zero.astype(np.int64).ravel()
    raw = raw - zero_a * right.astype(np.int64).sum(axis=0)
    raw = raw - rows.astype(np.int64).sum(axis=1, keepdims=True) * zero_b
    raw = raw + zero_a * zero_b * len(right)
    shaped: NDArray[np.int64] = raw.reshape(*left.shape[:-1], right.shape[1])
    return shaped


def _scaled(sums: NDArray[np.int64], left_scale: Array, right_scale: Array) -> Array:
    factor: Array = left_scale.astype(np.float32) * right_scale.astype(np.float32).ravel()
    return sums.astype(np.float32) * factor


def _quantized(values: Array, scale: Array, zero_point: Array) -> Array:
    info = np.iinfo(zero_point.dtype)
    integers = np.rint(values / scale.astype(np.float32)) + zero_point.astype(np.float32)
    clipped: Array = np.clip(integers, info.min, info.max).astype(zero_point.dtype)
    return clipped


def _matmul_integer(_node: onnx.NodeProto, inputs: Inputs, matmul: Multiply) -> Array:
    left, right, left_zero, right_zero = _padded(inputs, 4)
    assert left is not None
    assert right is not None
    return _integer_matmul(left, right, left_zero, right_zero, matmul).astype(np.int32)


def _matmul_to_float(_node: onnx.NodeProto, inputs: Inputs, matmul: Multiply) -> Array:
    left, right, left_scale, right_scale, left_zero, right_zero, bias = _padded(inputs, 7)
    assert left is not None
    assert right is not None
    assert left_scale is not None
    assert right_scale is not None
    sums = _integer_matmul(left, right, left_zero, right_zero, matmul)
    found = _scaled(sums, left_scale, right_scale)
    return found if bias is None else found + bias


def _dynamic_matmul(node: onnx.NodeProto, inputs: Inputs, matmul: Multiply) -> Array:
    values, right, right_scale, right_zero, bias = _padded(inputs, 5)
    assert values is not None
    low, high = np.minimum(values.min(), np.float32(0)), np.maximum(values.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    left = _quantized(values, np.asarray(scale), np.asarray(zero))
    everything = (left, right, np.asarray(scale), right_scale, np.asarray(zero), right_zero, bias)
    return _matmul_to_float(node, everything, matmul)


def _qlinear_matmul(node: onnx.NodeProto, inputs: Inputs, matmul: Multiply) -> Array:
    left, left_scale, left_zero, right, right_scale, right_zero, scale, zero = _padded(inputs, 8)
    everything = (left, right, left_scale, right_scale, left_zero, right_zero, None)
    assert scale is not None
    assert zero is not None
    return _quantized(_matmul_to_float(node, everything, matmul), scale, zero)


def _qgemm(node: onnx.NodeProto, inputs: Inputs, matmul: Multiply) -> Array:
    found = _padded(inputs, 9)
    left, left_scale, left_zero, right, right_scale, right_zero, bias, scale, zero = found
    assert left is not None
    assert right is not None
    assert left_scale is not None
    assert right_scale is not None
    left = left.T if attribute(node, "transA", 0) else left
    right = right.T if attribute(node, "transB", 0) else right
    sums = _integer_matmul(left, right, left_zero, right_zero, matmul)
    sums = sums if bias is None else sums + bias.astype(np.int64)
    values = _scaled(sums, left_scale * np.float32(attribute(node, "alpha", 1.0)), right_scale)
    return values if scale is None or zero is None else _quantized(values, scale, zero)


def _padded(inputs: Inputs, count: int) -> list[Array | None]:
    return [*inputs, *[None] * (count - len(inputs))]


Kernel = Callable[[onnx.NodeProto, Inputs, Multiply], Array]
KERNELS: dict[str, Kernel] = {
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulInteger": _matmul_integer,
    "MatMulIntegerToFloat": _matmul_to_float,
    "QGemm": _qgemm,
    "QLinearMatMul": _qlinear_matmul,
}
