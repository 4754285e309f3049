"""Finds the weights of an ONNX graph that could be int8, and says why others cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import onnx
from onnx import helper

from compressor.onnx_graph.onnx_file import LOOKUP_COPY

_MATMULS = frozenset(("MatMul", "Gemm", "FusedMatMul"))
# Functions that only cut values off, as a range of integers does at its ends.
ENDS_OF_RANGES = frozenset(("Clip", "Relu"))
_LARGEST_SUM = 2**30 // (255 * 127)  # products of 8 bits that half of 32 bits hold, beside a bias
_INTEGER_OPERATORS = frozenset(
    (
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    )
)
_FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "float64",
}


@dataclass(frozen=True)
class Use:
    """One input of one node."""

    node: onnx.NodeProto
    position: int

    @property
    def is_matmul(self) -> bool:
        """Whether the input is a factor of a matmul."""
        return self.node.op_type in _MATMULS and self.position in (0, 1)

    @property
    def is_lookup(self) -> bool:
        """Whether rows of the input are looked up."""
        return self.node.op_type == "Gather" and self.position == 0

    @property
    def is_filter(self) -> bool:
        """Whether the input is what a convolution moves over another one."""
        return self.node.op_type == "Conv" and self.position == 1

    @property
    def layout(self) -> tuple[bool, float]:
        """Return whether a matmul transposes its weight, and which factor it multiplies by."""
        return bool(self.number("transB", 0)), self.number("alpha", 1)

    def number(self, attribute: str, default: float) -> float:
        """Return a numeric attribute of the node."""
        for item in self.node.attribute:
            if item.name == attribute:
                return float(helper.get_attribute_value(item))
        return default


@dataclass(frozen=True)
class QuantizableWeight:
    """A weight that could be int8.

    A `matrix` is the constant right-hand side of matmuls, a `table` is looked up by row, a `filter`
    is a convolution's. `nodes` are the operators that read it. `obstacle` is why it has to stay in
    float, None if nothing is.
    """

    name: str
    kind: Literal["matrix", "table", "filter"]
    shape: tuple[int, ...]
    nodes: tuple[str, ...]
    obstacle: str | None

    @property
    def num_elements(self) -> int:
        """Return the number of weights."""
        return prod(self.shape)


def integer_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the operators that an already quantized graph has, in alphabetical order."""
    return tuple(sorted({node.op_type for node in model.graph.node} & _INTEGER_OPERATORS))


def lift_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes that hold a tensor into initializers, where weights are looked for."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def part_shared_tables(model: onnx.ModelProto, names: Iterable[str]) -> tuple[str, ...]:
    """Give the lookups of tables that matmuls read too a copy, and return which tables those are.

    Such is the table of words of a language model, whose last matmul reads it. Rows of integers
    are looked up in another form than they are multiplied in, so one tensor cannot be both.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inner = set(names_in_bodies(graph))
    wanted = set(names) & tensors.keys() - inner
    parted = []
    for name, readers in find_uses(graph).items():
        lookups = [use for use in readers if use.is_lookup]
        matmuls = [use for use in readers if use.is_matmul]
        if name not in wanted or not lookups or len(lookups) + len(matmuls) != len(readers):
            continue
        if not matmuls:
            continue
        own = graph.initializer.add()
        own.CopyFrom(tensors[name])
        own.name = f"{name}{LOOKUP_COPY}"
        for use in lookups:
            use.node.input[use.position] = own.name
        parted.append(name)
    return tuple(parted)


def find_uses(graph: onnx.GraphProto) -> dict[str, list[Use]]:
    """Return what reads each value, in the order of the nodes; loop bodies are not looked into."""
    uses: dict[str, list[Use]] = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            uses[name].append(Use(node, position))
    return uses


def activation_names(
    model: onnx.ModelProto, weights: Iterable[QuantizableWeight]
) -> tuple[str, ...]:
    """Return the names of the activations that the matrices among `weights` multiply, each once."""
    uses = find_uses(model.graph)
    matrices = (weight.name for weight in weights if weight.kind == "matrix")
    return tuple(dict.fromkeys(use.node.input[0] for name in matrices for use in uses[name]))


def find_quantizable_weights(
    model: onnx.ModelProto, *, filters: bool = False
) -> tuple[QuantizableWeight, ...]:
    """Return every floating-point weight of a matmul or lookup, in the order they are used.

    With `filters`, those of convolutions too. A weight that several operators read is found once.
    Matmuls of two activations and biases have none.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    boundary = {value.name for value in (*graph.input, *graph.output)}
    inner = set(names_in_bodies(graph))
    weights = []
    for name, readers in find_uses(graph).items():
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type not in _FLOATS:
            continue
        is_matrix = any(use.is_matmul for use in readers)
        is_filter = filters and any(use.is_filter for use in readers)
        if not is_matrix and not is_filter and not any(use.is_lookup for use in readers):
            continue
        if is_filter:
            obstacle = _filter_obstacle(tensor, readers, producers, tensors)
        else:
            obstacle = _obstacle(tensor, readers)
        if name in boundary:
            obstacle = "it is an input or output of the graph"
        elif name in inner:
            obstacle = "a branch or loop reads it too"
        nodes = tuple(dict.fromkeys(use.node.name or use.node.output[0] for use in readers))
        kind: Literal["matrix", "table", "filter"] = "matrix" if is_matrix else "table"
        kind = "filter" if is_filter else kind
        weights.append(QuantizableWeight(name, kind, tuple(tensor.dims), nodes, obstacle))
    return tuple(weights)


def has_filters(model: onnx.ModelProto) -> bool:
    """Return whether a convolution of a graph has a constant filter."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(node.op_type == "Conv" and node.input[1] in constants for node in model.graph.node)


def convolves_channels_alone(node: onnx.NodeProto, filters: Sequence[int]) -> bool:
    """Return whether a convolution with filters of this shape makes each channel of one other."""
    groups = int(Use(node, 1).number("group", 1))
    return filters[1] == 1 and filters[0] == groups > 1


def _filter_obstacle(
    tensor: onnx.TensorProto,
    readers: Sequence[Use],
    producers: Mapping[str, onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
) -> str | None:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return _not_float32(tensor)
    if len(readers) > 1:
        return "several operators read it"
    [node] = (use.node for use in readers)
    if len(node.input) > 2 and node.input[2] and node.input[2] not in tensors:
        return "its bias is computed at run time"
    if prod(tensor.dims[1:]) > _LARGEST_SUM:
        return f"a sum of {prod(tensor.dims[1:])} products may leave 32 bits"
    if convolves_channels_alone(node, tensor.dims) and not _is_convolved(node.input[0], producers):
        # 23 of a ConvNeXt-T, one thread: 1.00 times as fast, between floats.
        return "it convolves each channel alone, which between floats int8 does not make faster"
    return None


def _is_convolved(value: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Return whether a value comes from a convolution, through a function with a lower end."""
    node = producers.get(value)
    if node is not None and node.op_type in ENDS_OF_RANGES:
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "Conv"


def _not_float32(tensor: onnx.TensorProto) -> str:
    return (
        f"it is {_FLOATS[tensor.data_type]} and the integer operators need float32: quantize "
        f"the float32 graph in its place"
    )


def _obstacle(tensor: onnx.TensorProto, readers: Sequence[Use]) -> str | None:
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return _not_float32(tensor)
    if len(tensor.dims) != 2:
        return f"it has {len(tensor.dims)} axes and not two"
    is_table = all(use.is_lookup for use in readers)
    reasons = (_lookup_obstacle(use) if is_table else _matmul_obstacle(use) for use in readers)
    obstacle = next((reason for reason in reasons if reason is not None), None)
    if obstacle is None and not is_table and len({use.layout for use in readers}) > 1:
        return "it is read in two layouts"
    return obstacle


def _lookup_obstacle(use: Use) -> str | None:
    return None if use.number("axis", 0) in (0, -2) else "it is looked up by column"


def _matmul_obstacle(use: Use) -> str | None:
    operator = use.node.op_type
    if not use.is_matmul:
        return f"{operator} reads it too"
    if use.position == 0:
        return f"it is the left-hand side of {operator}"
    if any(use.number(name, 0) for name in ("transA", "transBatchA", "transBatchB")):
        return f"{operator} transposes its activations"
    return None


def names_in_bodies(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name that the branch and loop bodies of `graph` mention."""
    for node in graph.node:
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from (name for inner in body.node for name in inner.input)
                yield from (value.name for value in body.output)
                yield from names_in_bodies(body)
