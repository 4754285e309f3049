"""Tells the element type of every value in a graph, fused operators included.

ONNX's own inference stops at the first fused operator, and ONNX Runtime's wants shapes as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, defs

from compressor.errors import StepFailed

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_ONNX = ("", "ai.onnx")
_CONTRIB = "com.microsoft"


def opset_version(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a graph uses, 0 for none."""
    versions = (item.version for item in model.opset_import if item.domain in _ONNX)
    return max(versions, default=0)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the `TensorProto` type of every input, constant and computed value by its name.

    Outputs that nothing can tell the type of, such as the statistics that fused operators keep for
    training, have type 0. Raises `StepFailed` when a node reads such a value.
    """
    graph = model.graph
    version = opset_version(model)
    described = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in described}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if unknown := [name for name in node.input if name and not types.get(name)]:
            raise StepFailed(
                f"the type of {', '.join(unknown)}, read by {node.op_type}, is unknown"
            )
        for position, name in enumerate(node.output):
            types[name] = types.get(name) or _output_type(node, position, types, version)
    return types


def input_is_fixed(node: onnx.NodeProto, position: int, version: int) -> bool:
    """Return whether an input is float32 by definition, as the scales of a Resize are."""
    schema = _schema(node, version)
    if schema is None:
        return False
    kind = schema.inputs[min(position, len(schema.inputs) - 1)].type_str
    return bool(kind == "tensor(float)")


def output_is_fixed(node: onnx.NodeProto, position: int, version: int) -> bool:
    """Return whether an output is float32 whatever the inputs are, as the mean of a norm is."""
    schema = _schema(node, version)
    if schema is None:
        return position > 0 and not _is_skip_sum(node, position)
    kind = schema.outputs[min(position, len(schema.outputs) - 1)].type_str
    follows_an_input = any(item.type_str == kind for item in schema.inputs)
    makes_any_float = node.op_type in ("Cast", "ConstantOfShape")
    return not follows_an_input and not makes_any_float


def _output_type(
    node: onnx.NodeProto, position: int, types: Mapping[str, int], version: int
) -> int:
    """Return the element type of an output, 0 where it cannot be told from the inputs' types."""
    attributes = {item.name: item for item in node.attribute}
    if node.op_type == "Cast":
        return int(attributes["to"].i)
    if node.op_type == "ConstantOfShape":
        return int(attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT)
    if node.op_type == "LayerNormalization" and position > 0:
        return int(TensorProto.FLOAT)  # mean and deviation, by the default of stash_type
    inputs = [types[name] if name else 0 for name in node.input]
    if node.domain == _CONTRIB:
        # ONNX Runtime's fused operators compute in the type of their activations. Other outputs
        # are statistics for training, except the sum that skip connections go on with.
        if position == 0 or _is_skip_sum(node, position):
            return next((kind for kind in inputs if kind in FLOATS), 0)
        return 0
    schema = _schema(node, version)
    if schema is None:
        return 0
    wanted = schema.outputs[min(position, len(schema.outputs) - 1)].type_str
    last = len(schema.inputs) - 1  # stands for all the rest where an operator takes any number
    same = (
        kind
        for index, kind in enumerate(inputs)
        if kind and schema.inputs[min(index, last)].type_str == wanted
    )
    return next(same, _only_type(schema, wanted))


def _is_skip_sum(node: onnx.NodeProto, position: int) -> bool:
    return node.op_type == "SkipLayerNormalization" and position == 3


def _schema(node: onnx.NodeProto, version: int) -> defs.OpSchema | None:
    if node.domain not in _ONNX or not defs.has(node.op_type, max_inclusive_version=version):
        return None
    return defs.get_schema(node.op_type, version)


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
