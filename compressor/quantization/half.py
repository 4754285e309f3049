"""Float16 weights and activations in an ONNX graph, with ONNX Runtime's own converter.

The converter maps every constant beyond the range of float16 to its end without a word. For
attention masks, which are built from the lowest float32, the result can still overflow to minus
infinity once a score is added; for a weight it is a wrong number. Both are dealt with before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, defs, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

HALF_MAX = 65504.0

# What takes the place of minus infinity in masks: its exponential is 0 in any softmax, and a score
# or a second mask can be added without leaving float16.
MASKED = -30000.0

# No weight of a network that works is lower than this, but masks are (-1e9, the lowest float32).
_LOWEST_WEIGHT = -1e8

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def convert_to_half(
    model: onnx.ModelProto, *, keep_in_float: Sequence[str] = ()
) -> onnx.ModelProto:
    """Return `model` in float16; inputs and outputs of the graph keep their types.

    Operators of the types `keep_in_float` compute in float32, with casts around them, as do those
    that ONNX Runtime has no float16 kernels for. Masks become finite (`MASKED`).

    Raises `ValueError` when a weight is beyond ±65504 or not finite, and when the type of a value
    cannot be inferred.
    """
    kept = {*DEFAULT_OP_BLOCK_LIST, *keep_in_float}
    for tensor in _constants_to_convert(model.graph, kept):
        _bound(tensor)
    _infer_types(model)
    converted = convert_float_to_float16(
        model, keep_io_types=True, disable_shape_infer=True, op_block_list=sorted(kept)
    )
    # The converter appends its casts at the end of the node list, ONNX requires them in order.
    program = ir.from_proto(converted)
    program.graph.sort()
    ordered: onnx.ModelProto = ir.to_proto(program)
    return ordered


def _constants_to_convert(graph: onnx.GraphProto, kept: set[str]) -> Iterator[TensorProto]:
    """Yield the float constants that an operator outside `kept` reads or holds."""
    read = {name for node in graph.node if node.op_type not in kept for name in node.input}
    yield from (
        tensor
        for tensor in graph.initializer
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT
    )
    for node in graph.node:
        if node.op_type in kept:
            continue
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                yield attribute.t


def _bound(tensor: TensorProto) -> None:
    """Bring the masks in a constant into the range of float16, in place."""
    values: NDArray[np.float32] = numpy_helper.to_array(tensor)
    limit = -HALF_MAX if values.size == 1 else _LOWEST_WEIGHT
    masked = np.where(values < limit, np.float32(MASKED), values)
    if values.size == 1:  # a bound such as that of Clip, not a weight
        masked = np.minimum(masked, np.float32(HALF_MAX))
    beyond = ~(np.abs(masked) <= HALF_MAX)  # true for NaN too
    if beyond.any():
        raise ValueError(
            f"weight {tensor.name} holds {masked[beyond].flat[0]:.6g}, float16 ends at "
            f"±{HALF_MAX:g}"
        )
    if not np.array_equal(masked, values):
        tensor.CopyFrom(numpy_helper.from_array(masked.astype(np.float32), tensor.name))


def _infer_types(model: onnx.ModelProto) -> None:
    """Describe every value with its element type, where the converter looks for it.

    ONNX's own inference stops at the first fused operator, and ONNX Runtime's wants shapes as well.
    """
    graph = model.graph
    version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    described = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in described}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if unknown := [name for name in node.input if name and not types.get(name)]:
            raise ValueError(
                f"the type of {', '.join(unknown)}, read by {node.op_type}, is unknown"
            )
        for position, name in enumerate(node.output):
            types[name] = types.get(name) or _output_type(node, position, types, version)
    del graph.value_info[:]
    graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, types[name], None)
        for node in graph.node
        for name in node.output
        if types[name]
    )


def _output_type(
    node: onnx.NodeProto, position: int, types: Mapping[str, int], version: int
) -> int:
    """Return the element type of an output, 0 where it cannot be told from the inputs' types."""
    attributes = {item.name: item for item in node.attribute}
    if node.op_type == "Cast":
        return int(attributes["to"].i)
    if node.op_type == "ConstantOfShape":
        return int(attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT)
    inputs = [types[name] if name else 0 for name in node.input]
    if node.domain == "com.microsoft":
        # ONNX Runtime's fused operators compute in the type of their activations. Other outputs
        # are statistics for training, except the sum that skip connections go on with.
        if position == 0 or (node.op_type == "SkipLayerNormalization" and position == 3):
            return next((kind for kind in inputs if kind in _FLOATS), 0)
        return 0
    if node.domain not in ("", "ai.onnx") or not defs.has(
        node.op_type, max_inclusive_version=version
    ):
        return 0
    schema = defs.get_schema(node.op_type, version)
    wanted = schema.outputs[min(position, len(schema.outputs) - 1)].type_str
    last = len(schema.inputs) - 1  # stands for all the rest where an operator takes any number
    same = (
        kind
        for index, kind in enumerate(inputs)
        if kind and schema.inputs[min(index, last)].type_str == wanted
    )
    return next(same, _only_type(schema, wanted))


def _only_type(schema: defs.OpSchema, wanted: str) -> int:
    allowed = next(
        (
            item.allowed_type_strs
            for item in schema.type_constraints
            if item.type_param_str == wanted
        ),
        [wanted],
    )
    name = allowed[0].removeprefix("tensor(").removesuffix(")") if len(allowed) == 1 else ""
    return int(TensorProto.DataType.Value(name.upper())) if name else 0
