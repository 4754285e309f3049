"""Finds the nodes whose numbers float16 cannot hold, from what a graph really computes.

The float graph runs on real rows with a few numbers kept for each value: its largest magnitude, and
how much of it rounding to float16 takes away, which is much where most of its numbers are below
6e-5. Two kernels hide larger numbers than they read or give: normalisations sum squares, and fused
attentions scores. Both are measured from their inputs. Only maxima are kept, so memory does not
grow with the rows. Whole operator types need not stay in float32 for the sake of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.element_types import element_types, opset_version
from compressor.passes.convert_fp16.float16 import FLOAT16_MAX, NotFinite, node_name, to_float16

# Rows that were not measured may hold larger numbers than those that were.
LARGEST = FLOAT16_MAX / 2
# Rounding a number within the normal range takes at most 2^-11 of it away.
MOST_LOST = 2.0**-9

_NORMALIZATIONS = frozenset(
    (
        "LayerNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    )
)
_HEADS = {"MultiHeadAttention": "num_heads", "Attention": "q_num_heads"}
_PREFIX = "float16_probe"

# Runs a graph on all rows: the values of its outputs for each batch.
RunBatches = Callable[[onnx.ModelProto, list[str]], Iterable[list[NDArray[np.generic]]]]


@dataclass(frozen=True)
class KeptNode:
    """A node that computes in float32, and why."""

    name: str
    operator: str
    reason: str


@dataclass
class _Probes:
    """Nodes added to a graph: each output is one number, the largest of which counts."""

    version: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    largest: dict[str, str] = field(default_factory=dict)  # value -> output
    squares: dict[str, str] = field(default_factory=dict)  # value -> output, the sum of squares
    rounding: dict[str, str] = field(default_factory=dict)  # value -> output, that of its error
    mean_square: dict[str, str] = field(default_factory=dict)  # normalisation -> output
    query: dict[str, str] = field(default_factory=dict)  # attention -> output, squared length
    key: dict[str, str] = field(default_factory=dict)
    width: dict[str, str] = field(default_factory=dict)  # attention -> output, of all heads

    def outputs(self) -> list[str]:
        tables = (self.largest, self.squares, self.rounding, self.mean_square)
        attention = (self.query, self.key, self.width)
        return [name for table in (*tables, *attention) for name in table.values()]

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{_PREFIX}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def integers(self, name: str, values: list[int]) -> str:
        name = f"{_PREFIX}_{name}"
        self.constants[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name

    def reduce(self, operator: str, value: str, *, last_axis: bool) -> str:
        """Reduce `value` to one number, or along its last axis."""
        if not last_axis:
            return self.add(operator, [value], keepdims=0)
        if self.version < (13 if operator == "ReduceSum" else 18):
            return self.add(operator, [value], axes=[-1], keepdims=0)
        return self.add(operator, [value, self.integers("axis", [-1])], keepdims=0)

    def measure_value(self, value: str) -> None:
        self.largest[value] = self.reduce("ReduceMax", self.add("Abs", [value]), last_axis=False)
        short = self.add("Cast", [value], to=TensorProto.FLOAT16)
        error = self.add("Sub", [value, self.add("Cast", [short], to=TensorProto.FLOAT)])
        self.squares[value] = self.reduce("ReduceSumSquare", value, last_axis=False)
        self.rounding[value] = self.reduce("ReduceSumSquare", error, last_axis=False)

    def measure_normalization(self, node: onnx.NodeProto) -> None:
        terms = [node.input[0]]
        if node.op_type.startswith("Skip"):
            bias = 4 if node.op_type == "SkipLayerNormalization" else 3
            terms += [name for name in (node.input[1], *node.input[bias : bias + 1]) if name]
        total = self.add("Sum", terms) if len(terms) > 1 else terms[0]
        mean = self.reduce("ReduceMean", self.add("Mul", [total, total]), last_axis=True)
        self.mean_square[node_name(node)] = self.reduce("ReduceMax", mean, last_axis=False)

    def measure_attention(self, node: onnx.NodeProto, heads: int) -> None:
        shape = self.integers(f"{heads}_heads", [0, 0, heads, -1])
        for table, value in ((self.query, node.input[0]), (self.key, node.input[1])):
            lengths = self.reduce(
                "ReduceSumSquare", self.add("Reshape", [value, shape]), last_axis=True
            )
            table[node_name(node)] = self.reduce("ReduceMax", lengths, last_axis=False)
        self.width[node_name(node)] = self.add("Shape", [node.input[0]], start=-1)


def find_float_nodes(model: onnx.ModelProto, run: RunBatches) -> tuple[KeptNode, ...]:
    """Return the nodes of a float32 graph that float16 cannot compute, in the order of the graph.

    Masks must be finite already (`bound_masks`). `run` opens a graph and gives, for each batch of
    rows, the outputs that it is asked for.

    A value inside that is NaN or infinite is one that float16 cannot hold: its nodes are found, as
    of the logarithm of 0 that a `Where` leaves out. Raises `NotFinite` when an output of the graph
    is, or a weight.
    """
    types = element_types(model)
    probes = _probes(model, types)
    measured = _measure(model, probes, run)
    reasons: dict[str, str] = {}
    weights = {tensor.name: _weight_problem(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        name = node_name(node)
        reason = _hidden_problem(node, probes, measured)
        for value in (*node.input, *node.output):
            if reason is None and weights.get(value) is not None:
                reason = f"reads weight {value}, {weights[value]}"
            if reason is None and value in probes.largest:
                verb = "reads" if value in node.input else "gives"
                problem = _value_problem(value, probes, measured)
                reason = problem and f"{verb} {value}, {problem}"
        if reason is not None and not _is_integer(node, types):
            reasons[name] = reason
    return tuple(
        KeptNode(node_name(node), node.op_type, reasons[node_name(node)])
        for node in model.graph.node
        if node_name(node) in reasons
    )


def _probes(model: onnx.ModelProto, types: Mapping[str, int]) -> _Probes:
    graph = model.graph
    probes = _Probes(opset_version(model))
    values = [value.name for value in graph.input]
    values += [name for node in graph.node for name in node.output]
    # Statistics that kernels keep for training alone are not computed: nobody reads them.
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    for name in values:
        if name in read and types.get(name) == TensorProto.FLOAT:
            probes.measure_value(name)
    for node in graph.node:
        if node.op_type in _NORMALIZATIONS:
            probes.measure_normalization(node)
        heads = _number_of_heads(node)
        if heads and all(node.input[:2]) and not any(node.input[3:4]):
            probes.measure_attention(node, heads)
    return probes


def _number_of_heads(node: onnx.NodeProto) -> int:
    """Return the heads of a fused attention whose query and key have three axes, 0 of others."""
    wanted = _HEADS.get(node.op_type)
    return next((int(item.i) for item in node.attribute if item.name == wanted), 0)


def _measure(model: onnx.ModelProto, probes: _Probes, run: RunBatches) -> dict[str, float]:
    """Return the largest of each number over all batches; sums of squares are added."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.node.extend(probes.nodes)
    probed.graph.initializer.extend(probes.constants.values())
    names = probes.outputs()
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    added = {*probes.squares.values(), *probes.rounding.values()}
    found: dict[str, float] = dict.fromkeys(names, 0.0)
    with np.errstate(invalid="ignore"):
        for numbers in run(probed, names):
            for name, number in zip(names, numbers, strict=True):
                value = float(np.max(number))
                found[name] = found[name] + value if name in added else max(found[name], value)
    for measured, name in probes.largest.items():
        # A maximum may overlook NaN, a sum cannot; that of finite numbers may be infinite.
        if np.isnan(found[probes.squares[measured]]):
            found[name] = float("nan")
    _require_finite_outputs(model, probes, found)
    return found


def _require_finite_outputs(
    model: onnx.ModelProto, probes: _Probes, measured: Mapping[str, float]
) -> None:
    largest = {value: measured[name] for value, name in probes.largest.items()}
    not_finite = [value for value in largest if not np.isfinite(largest[value])]
    outputs = {value.name for value in model.graph.output}
    if broken := [value for value in not_finite if value in outputs]:
        named = dict.fromkeys((not_finite[0], broken[0]))  # where it may have begun
        raise NotFinite(
            "the float graph gives "
            + " and ".join(f"{largest[value]} for {value}" for value in named)
        )


def _value_problem(value: str, probes: _Probes, measured: Mapping[str, float]) -> str | None:
    largest = measured[probes.largest[value]]
    if np.isnan(largest):
        return "which is not a number"
    if largest > LARGEST:
        return f"up to {largest:.3g}"
    squares = measured[probes.squares[value]]
    lost = np.sqrt(measured[probes.rounding[value]] / squares) if squares > 0 else 0.0
    return f"of which rounding takes {lost:.2%}" if lost > MOST_LOST else None


def _hidden_problem(
    node: onnx.NodeProto, probes: _Probes, measured: Mapping[str, float]
) -> str | None:
    """Return what a kernel computes inside that does not fit."""
    name = node_name(node)
    if name in probes.mean_square and measured[probes.mean_square[name]] > LARGEST:
        return f"averages squares up to {measured[probes.mean_square[name]]:.3g}"
    if name in probes.query:
        lengths = measured[probes.query[name]] * measured[probes.key[name]]
        head_size = measured[probes.width[name]] / _number_of_heads(node)
        given = next((float(item.f) for item in node.attribute if item.name == "scale"), 0.0)
        score = np.sqrt(lengths) * (given or head_size**-0.5)
        if score > LARGEST:
            return f"may have scores up to {score:.3g}"
    return None


def _weight_problem(tensor: TensorProto) -> str | None:
    if tensor.data_type != TensorProto.FLOAT:
        return None
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    if not np.isfinite(values).all():
        raise NotFinite(f"weight {tensor.name} holds NaN or infinity")
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest > FLOAT16_MAX:
        return f"up to {largest:.3g}"
    wide = values.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    lost = float(np.linalg.norm(wide - to_float16(values, "float16").astype(np.float64)))
    return f"of which rounding takes {lost / norm:.2%}" if lost > MOST_LOST * norm else None


def _is_integer(node: onnx.NodeProto, types: Mapping[str, int]) -> bool:
    return all(types.get(name) != TensorProto.FLOAT for name in (*node.input, *node.output) if name)
