"""Float16 or bfloat16 weights and activations in an ONNX graph, decided node by node.

ONNX Runtime's own converter keeps operators in float32 by their type, casts every value between two
such operators to float16 and back, which turns an overflow into infinity all the same, and maps
constants beyond the range of float16 to its end without a word. Here a value stays in float32
between two nodes that compute in it, a cast stands only where the types of writer and reader
differ, and a weight that does not fit is an error. Positions of tokens are computed in float32 up
to where they are whole numbers again, or the sine of an angle: float16 would round a place among
thousands to another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.element_types import (
    element_types,
    input_is_fixed,
    opset_version,
    output_is_fixed,
)
from compressor.onnx_graph.quantizable_weights import lift_constants
from compressor.passes.convert_fp16.cuda_kernels import Float16Type, has_kernel

FLOAT16_MAX = 65504.0

# What takes the place of minus infinity in masks: its exponential is 0 in any softmax, and a score
# or a second mask can be added without leaving float16.
MASKED = -30000.0

# No weight of a network that works is lower than this, but masks are (-1e9, the lowest float32).
LOWEST_WEIGHT = -1e8

_LARGEST: dict[Float16Type, float] = {"float16": FLOAT16_MAX, "bfloat16": 3.3895313892515355e38}
_ELEMENTS: dict[Float16Type, int] = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# Bounds of values: the end of the range of float16 bounds as well as any number beyond it.
_CLAMPS = frozenset(("Clip", "Max", "Min"))
# Nodes that move numbers without computing any.
_MOVES = frozenset(
    (
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    )
)
_ANGLES = frozenset(("Cos", "Sin"))
_INTEGERS = frozenset(
    (
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
    )
)


class NotFinite(StepFailed):
    """A weight or a value is NaN or infinite in float32 already, which no other type can cure."""


def node_name(node: onnx.NodeProto) -> str:
    """Return what a node is called: its name, or else that of its first output."""
    return str(node.name or node.output[0])


def to_float16(values: NDArray[np.float32], dtype: Float16Type) -> NDArray[np.generic]:
    """Return `values` rounded to `dtype`, to nearest and ties to even."""
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    with np.errstate(over="ignore"):
        rounded: NDArray[np.generic] = values.astype(kind)
    return rounded


def bound_masks(model: onnx.ModelProto) -> None:
    """Make the masks among the constants finite in any type (`MASKED`), in place.

    A mask is a single number below -65504 or an element of a constant below -1e8; minus infinity
    is one too. Bounds of `Clip`, `Min` and `Max` become the largest float16 where they are larger.
    """
    clamps = {
        name for node in model.graph.node if node.op_type in _CLAMPS for name in node.input[1:]
    }
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        limit = -FLOAT16_MAX if values.size == 1 else LOWEST_WEIGHT
        bounded = np.where(values < limit, np.float32(MASKED), values)
        if tensor.name in clamps:
            bounded = np.minimum(bounded, np.float32(FLOAT16_MAX))
        if not np.array_equal(bounded, values, equal_nan=True):
            tensor.CopyFrom(numpy_helper.from_array(bounded.astype(np.float32), tensor.name))


def float_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that read or give float32 values, in order."""
    types = element_types(model)
    for node in model.graph.node:
        if any(types.get(name) == TensorProto.FLOAT for name in (*node.input, *node.output)):
            yield node


def convert_to_float16(
    model: onnx.ModelProto,
    *,
    in_float: Collection[str] = (),
    dtype: Float16Type = "float16",
) -> onnx.ModelProto:
    """Return a copy of `model` in float16 or bfloat16; inputs and outputs keep their types.

    Nodes called `in_float` (`node_name`) compute in float32, as do those that ONNX Runtime has no
    kernels of this type for, what computes places and angles of whole numbers alone, and nodes that
    only move numbers between them. Masks become finite.

    Raises `StepFailed` when a weight that a converted node reads is beyond ±65504 or not finite,
    when the type of a value cannot be inferred, and when a node holds a branch or a loop.
    """
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    lift_constants(converted)
    bound_masks(converted)
    _Conversion(converted, frozenset(in_float), dtype).run()
    return converted


class _Conversion:
    """One pass over the nodes of a graph, which is changed in place."""

    def __init__(
        self, model: onnx.ModelProto, in_float: frozenset[str], dtype: Float16Type
    ) -> None:
        self._graph, self._version = model.graph, opset_version(model)
        self._dtype, self._element = dtype, _ELEMENTS[dtype]
        self._types = element_types(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._in_float = self._kept(in_float)
        self._now: dict[str, int] = {}  # the type of each computed float value in the new graph
        self._renamed: dict[str, str] = {}  # outputs of the graph that are converted
        self._made: dict[tuple[str, int], str] = {}  # casts and converted constants
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self._graph.node:
            self._convert(node)
        for name, own in self._renamed.items():
            self._nodes.append(
                helper.make_node("Cast", [own], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
            )
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._drop_unread_constants()
        self._describe()

    def _convert(self, node: onnx.NodeProto) -> None:
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            raise StepFailed(
                f"node {node_name(node)} holds a branch or a loop ({node.op_type}), whose values "
                f"cannot be converted"
            )
        is_converted = node_name(node) not in self._in_float
        for position, name in enumerate(node.input):
            if self._types.get(name) == TensorProto.FLOAT:
                fixed = not is_converted or input_is_fixed(node, position, self._version)
                wanted = TensorProto.FLOAT if fixed else self._element
                node.input[position] = self._read(name, wanted)
        for position, name in enumerate(node.output):
            if self._types.get(name) == TensorProto.FLOAT:
                fixed = not is_converted or output_is_fixed(node, position, self._version)
                self._now[name] = TensorProto.FLOAT if fixed else self._element
                if name in self._outputs and not fixed:
                    self._renamed[name] = node.output[position] = f"{name}_{self._dtype}"
        if is_converted:
            self._convert_attributes(node)
        self._nodes.append(node)

    def _convert_attributes(self, node: onnx.NodeProto) -> None:
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.FLOAT:
                item.i = self._element
            elif item.HasField("t") and item.t.data_type == TensorProto.FLOAT:
                item.t.CopyFrom(self._rounded(item.t, item.t.name))
        if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 zeros by definition
            zero = to_float16(np.zeros(1, np.float32), self._dtype)
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(zero)))

    def _read(self, name: str, wanted: int) -> str:
        """Return the name under which `name` can be read with the type `wanted`."""
        if name in self._weights:
            return name if wanted == TensorProto.FLOAT else self._converted_weight(name)
        source = self._renamed.get(name, name)
        if self._now.get(name, TensorProto.FLOAT) == wanted:
            return source
        key = (name, wanted)
        if key not in self._made:
            kind = "float32" if wanted == TensorProto.FLOAT else self._dtype
            self._made[key] = f"{name}_as_{kind}"
            cast = helper.make_node(
                "Cast", [source], [self._made[key]], name=f"{self._made[key]}_cast", to=wanted
            )
            self._nodes.append(cast)
        return self._made[key]

    def _converted_weight(self, name: str) -> str:
        key = (name, self._element)
        if key not in self._made:
            self._made[key] = f"{name}_{self._dtype}" if self._read_in_float(name) else name
            rounded = self._rounded(self._weights[name], self._made[key])
            if self._made[key] == name:
                self._weights[name].CopyFrom(rounded)
            else:
                self._graph.initializer.append(rounded)
        return self._made[key]

    def _read_in_float(self, name: str) -> bool:
        """Return whether somebody needs a constant in float32 too."""
        return name in self._outputs or any(
            node_name(node) in self._in_float or input_is_fixed(node, position, self._version)
            for node in self._graph.node
            for position, read in enumerate(node.input)
            if read == name
        )

    def _rounded(self, tensor: TensorProto, name: str) -> TensorProto:
        values: NDArray[np.float32] = numpy_helper.to_array(tensor)
        limit = _LARGEST[self._dtype]
        beyond = ~(np.abs(values) <= limit)  # true for NaN too
        if beyond.any():
            kind = NotFinite if np.isnan(values).any() else StepFailed
            raise kind(
                f"weight {tensor.name} holds {values[beyond].flat[0]:.6g}, {self._dtype} ends at "
                f"±{limit:g}"
            )
        return numpy_helper.from_array(to_float16(values, self._dtype), name)

    def _kept(self, in_float: frozenset[str]) -> set[str]:
        """Return the names of all nodes that stay in float32."""
        graph = self._graph
        kept = set(in_float) | self._of_positions()
        kept |= {
            node_name(node)
            for node in graph.node
            if not has_kernel(node.op_type, self._dtype, self._version)
        }
        writers = {name: node_name(node) for node in graph.node for name in node.output}
        readers: dict[str, set[str]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, set()).add(node_name(node))
        for node in graph.node:
            if node.op_type not in _MOVES:
                continue
            values = [name for name in node.input if self._types.get(name) == TensorProto.FLOAT]
            before = {writers.get(name) for name in values}
            after = set().union(*(readers.get(name, set()) for name in node.output))
            if values and after and before <= kept and after <= kept:
                kept.add(node_name(node))
        return kept

    def _of_positions(self) -> set[str]:
        """Return the nodes that compute, of whole numbers alone, whole numbers or angles."""
        constants = set(self._weights)
        counted: set[str] = set()  # float values that are computed of whole numbers
        for node in self._graph.node:
            is_constant = constants.issuperset(name for name in node.input if name)
            if is_constant and node.input:
                constants.update(node.output)
            is_row_of_a_table = node.op_type.startswith("Gather") and node.input[0] in constants
            floats = [name for name in node.input if self._types.get(name) == TensorProto.FLOAT]
            if not is_row_of_a_table and all(name in counted | constants for name in floats):
                counted.update(node.output)
        found: set[str] = set()
        wanted: set[str] = set()  # values that a node of these reads
        for node in reversed(self._graph.node):
            is_end = node.op_type in _ANGLES or self._is_cast_to_integers(node)
            reads_counted = any(name in counted for name in node.input)
            if wanted.intersection(node.output) or (is_end and reads_counted):
                found.add(node_name(node))
                wanted.update(counted.intersection(node.input))
        return found

    def _is_cast_to_integers(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Cast" and self._types.get(node.output[0]) in _INTEGERS

    def _drop_unread_constants(self) -> None:
        read = {name for node in self._graph.node for name in node.input} | self._outputs
        unread = [tensor for tensor in self._graph.initializer if tensor.name not in read]
        for tensor in unread:
            self._graph.initializer.remove(tensor)

    def _describe(self) -> None:
        """Give the described values their new types; their shapes stay."""
        for value in self._graph.value_info:
            if value.name in self._now:
                value.type.tensor_type.elem_type = self._now[value.name]
