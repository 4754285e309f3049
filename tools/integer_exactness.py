"""Recomputes every integer matmul of a graph in NumPy and compares it with ONNX Runtime's.

Compared are the sums themselves, with the integers that the graph really multiplies and with ones
made to overflow 16 bits, and what the graph's own operator makes of them. Int8 embedding tables are
looked up row by row and compared with their integers times their scales. Packed weights of 4 and 8
bits are checked in `packed_exactness.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from bare_operators import CONTRIB, open_nodes
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from packed_exactness import check_packed

from compressor.onnx_graph.saturation import exact_matmul, saturating_matmul
from compressor.onnx_graph.split_run import open_unoptimized

Array = NDArray[Any]
Values = dict[str, Array]

_RANDOM_ROWS = 5  # beside rows made to overflow; an odd number, as kernels take rows in pairs
_WORST_COLUMNS = 8  # of a matrix, for which rows are made that overflow first
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class ExactnessCheck:
    """One node against NumPy: how many numbers were compared and how many were wrong.

    `saturated` counts sums that a CPU without VNNI would get wrong, by simulation.
    """

    node: str
    operator: str
    compared: int
    wrong: int
    saturated: int


@dataclass(frozen=True)
class _Product:
    """The factors of a node: activations are None where it quantizes them itself."""

    integers: str | None
    values: str | None
    weight: str
    scale: str | None
    zero_point: str | None
    weight_scale: str | None


def check_integers(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]], seed: int = 0
) -> tuple[ExactnessCheck, ...]:
    """Return a check of each integer matmul and table of a graph as ONNX Runtime runs it.

    `feeds` are inputs of the whole graph. Known are the operators that this package writes; any
    other that multiplies integers raises `ValueError`, as do weights that are not constant, so that
    nothing is passed over.
    """
    checker = _Checker(model, seed)
    for feed in feeds:
        checker.run(feed)
    checker.overflow()
    packed = (
        ExactnessCheck(node.name or node.output[0], node.op_type, compared, wrong, 0)
        for node, compared, wrong in check_packed(model, seed)
    )
    return (*checker.found(), *_check_tables(model), *packed)


class _Checker:
    def __init__(self, model: onnx.ModelProto, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._model = model
        self._constants = {item.name: item for item in model.graph.initializer}
        self._products = {
            node.output[0]: (node, product)
            for node in model.graph.node
            if (product := _product(node, self._constants)) is not None
        }
        # For each product: compared, wrong, saturated.
        self._counts = {output: [0, 0, 0] for output in self._products}
        self._sums: dict[str, onnxruntime.InferenceSession] = {}
        self._own: dict[str, onnxruntime.InferenceSession] = {}
        self._whole = _with_outputs(model, self._watched()) if self._products else None

    def run(self, feed: Mapping[str, Array]) -> None:
        """Compare each product for one input of the whole graph."""
        if self._whole is None:
            return
        watched = self._watched()
        computed = self._whole.run(watched, dict(feed)) if watched else ()
        seen = dict(zip(watched, computed, strict=True))
        for output, (_, product) in self._products.items():
            left = product.integers or product.values
            assert left is not None
            self._compare(output, seen[left] if left in seen else feed[left])

    def overflow(self) -> None:
        """Compare each product for integers that overflow 16 bits where any can."""
        for output, (_, product) in self._products.items():
            weight = self._constant(product.weight)
            integers = _overflowing(weight, self._random)
            if product.integers is None:
                # As floats from 0 to 255 they are their own quantized form.
                self._compare(output, integers.astype(np.float32))
            else:
                self._compare(output, integers)
            exact = exact_matmul(integers, weight)
            self._counts[output][2] += int(np.sum(saturating_matmul(integers, weight) != exact))

    def found(self) -> Iterator[ExactnessCheck]:
        """Yield what was counted."""
        for output, (node, _) in self._products.items():
            yield ExactnessCheck(node.name or output, node.op_type, *self._counts[output])

    def _watched(self) -> list[str]:
        inputs = {item.name for item in self._model.graph.input}
        left = (product.integers or product.values for _, product in self._products.values())
        return [name for name in dict.fromkeys(left) if name and name not in inputs]

    def _compare(self, output: str, left: Array) -> None:
        node, product = self._products[output]
        operands = self._operands(product, left)
        expected = _sums(operands["integers"], operands["weight"], operands["zero_point"])
        if output not in self._sums:
            self._sums[output] = _session("MatMulInteger", ["integers", "weight", "zero_point"])
        sums = self._run(self._sums[output], operands)
        self._count(output, sums, expected)
        if node.op_type == "MatMulInteger":
            return
        if output not in self._own:
            self._own[output] = _own_session(node.op_type)
        floats = self._run(self._own[output], operands)
        factor = operands["scale"] * operands["weight_scale"]
        self._count(output, floats, expected.astype(np.float32) * factor)

    def _operands(self, product: _Product, left: Array) -> Values:
        weight = self._constant(product.weight)
        scales: Array = np.ones(weight.shape[1], np.float32)
        if product.weight_scale is not None:
            scales = np.broadcast_to(self._constant(product.weight_scale), scales.shape).copy()
        if product.integers is None:
            integers, scale, zero_point = _quantize_at_run_time(left)
            return {
                "values": left,
                "integers": integers,
                "scale": scale,
                "zero_point": zero_point,
                "weight": weight,
                "weight_scale": scales,
            }
        zero = np.zeros((), np.uint8)
        return {
            "integers": left,
            "scale": self._constant(product.scale) if product.scale else np.ones((), np.float32),
            "zero_point": self._constant(product.zero_point) if product.zero_point else zero,
            "weight": weight,
            "weight_scale": scales,
        }

    def _constant(self, name: str) -> Array:
        values: Array = numpy_helper.to_array(self._constants[name])
        return values

    def _run(self, session: onnxruntime.InferenceSession, operands: Values) -> Array:
        feed = {item.name: operands[item.name] for item in session.get_inputs()}
        found: Array = session.run(None, feed)[0]
        return found

    def _count(self, output: str, found: Array, expected: Array) -> None:
        self._counts[output][0] += expected.size
        self._counts[output][1] += int(np.sum(found != expected))


def _product(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> _Product | None:
    """Return the factors of an integer matmul; None for a node that multiplies no integers."""
    names = [*node.input, *[""] * 8]
    if node.op_type == "MatMulIntegerToFloat":
        left, weight, scale, weight_scale, zero_point, weight_zero, *_ = names
        found = _Product(left, None, weight, scale, zero_point or None, weight_scale)
    elif node.op_type == "MatMulInteger":
        left, weight, zero_point, weight_zero, *_ = names
        found = _Product(left, None, weight, None, zero_point or None, None)
    elif node.op_type == "DynamicQuantizeMatMul":
        left, weight, weight_scale, weight_zero, *_ = names
        found = _Product(None, left, weight, None, None, weight_scale)
    elif node.op_type in ("QAttention", "QGemm", "QLinearMatMul", "ConvInteger", "QLinearConv"):
        raise ValueError(f"{node.op_type} {node.name or node.output[0]} is not recomputed here")
    else:
        return None
    tensor = constants.get(found.weight)
    if tensor is None or tensor.data_type != TensorProto.INT8 or len(tensor.dims) != 2:
        raise ValueError(f"{node.op_type} {node.name or node.output[0]} has no int8 matrix")
    if weight_zero and numpy_helper.to_array(constants[weight_zero]).any():
        raise ValueError(f"{node.op_type} {node.name or node.output[0]} has asymmetric weights")
    return found


def _sums(integers: Array, weight: Array, zero_point: Array) -> NDArray[np.int32]:
    """Return `(integers - zero_point) @ weight`, which has to fit into 32 bits."""
    wide = exact_matmul(integers.reshape(-1, integers.shape[-1]), weight)
    wide = wide - zero_point.astype(np.int64).reshape(-1)[:1] * weight.astype(np.int64).sum(axis=0)
    if wide.size and (wide.min() < _INT32.min or wide.max() > _INT32.max):
        raise ValueError(f"a sum of {len(weight)} products does not fit into 32 bits")
    sums: NDArray[np.int32] = wide.reshape(*integers.shape[:-1], -1).astype(np.int32)
    return sums


def _overflowing(weight: NDArray[np.int8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Return rows of activations, shape `(rows, K)`, that overflow 16 bits first.

    For the columns with the largest pairs: 255 where the weight has one sign, 0 elsewhere.
    """
    wide = weight.astype(np.int64)
    padded = np.pad(wide, ((0, len(wide) % 2), (0, 0)))
    columns = np.argsort(-np.abs(padded[0::2] + padded[1::2]).max(axis=0))[:_WORST_COLUMNS]
    worst = [255 * (sign * wide[:, column] > 0) for column in columns for sign in (1, -1)]
    rows = random.integers(0, 256, size=(_RANDOM_ROWS, len(wide)))
    full = np.full((1, len(wide)), 255)
    return np.concatenate([rows, full, np.array(worst).reshape(-1, len(wide))]).astype(np.uint8)


def _quantize_at_run_time(values: Array) -> tuple[Array, Array, Array]:
    """Return integers, scale and zero point as ONNX Runtime finds them for a whole tensor."""
    session = _session("DynamicQuantizeLinear", ["values"], outputs=3)
    integers, scale, zero_point = session.run(None, {"values": values})
    return integers, scale, zero_point


_KINDS = {
    "integers": TensorProto.UINT8,
    "zero_point": TensorProto.UINT8,
    "weight": TensorProto.INT8,
    "values": TensorProto.FLOAT,
    "scale": TensorProto.FLOAT,
    "weight_scale": TensorProto.FLOAT,
}


def _own_session(operator: str) -> onnxruntime.InferenceSession:
    if operator == "DynamicQuantizeMatMul":
        return _session(operator, ["values", "weight", "weight_scale"])
    return _session(operator, ["integers", "weight", "scale", "weight_scale", "zero_point"])


def _session(operator: str, names: Sequence[str], outputs: int = 1) -> onnxruntime.InferenceSession:
    standard = ("MatMulInteger", "DynamicQuantizeLinear")
    domain = "" if operator in standard else CONTRIB
    written = [f"out{number}" for number in range(outputs)]
    node = helper.make_node(operator, names, written, domain=domain)
    return open_nodes([node], {name: _KINDS[name] for name in names})


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {item.name for item in model.graph.output}
    watched.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in known
    )
    return open_unoptimized(watched)


def _check_tables(model: onnx.ModelProto) -> Iterator[ExactnessCheck]:
    """Yield a check of each lookup in an int8 table: every row, bit for bit."""
    constants = {item.name: item for item in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        table = constants.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != TensorProto.INT8:
            continue
        [cast] = readers[node.output[0]]
        [product] = readers[cast.output[0]]
        [factors] = [
            other
            for other in model.graph.node
            if other.op_type == "Gather" and other.output[0] in product.input
        ]
        scales = constants[factors.input[0]]
        found = _look_up([node, factors, cast, product], node.input[1], table, scales)
        expected = numpy_helper.to_array(table).astype(np.float32) * numpy_helper.to_array(scales)
        wrong = int(np.sum(found != expected))
        yield ExactnessCheck(node.name or node.output[0], "Gather", expected.size, wrong, 0)


def _look_up(
    nodes: Sequence[onnx.NodeProto], indices: str, table: TensorProto, scales: TensorProto
) -> Array:
    """Return every row of a table as the nodes of a graph give it."""
    session = open_nodes(nodes, {indices: TensorProto.INT64}, [table, scales])
    found: Array = session.run(None, {indices: np.arange(table.dims[0])})[0]
    return found
