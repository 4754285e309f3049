"""Tells the element type of every value in a graph, fused operators included.

ONNX's own inference stops at the first fused operator, and ONNX Runtime's wants shapes as well.
What an operator takes and gives is read from its schema: ONNX's, or else that of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import onnx
from onnx import TensorProto, defs
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from compressor.errors import StepFailed

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_ONNX = ("", "ai.onnx")
_SHORT_FLOATS = frozenset(("tensor(float16)", "tensor(bfloat16)"))
# The type of their statistics is by the default of an attribute, stash_type: float32.
_STASHES = frozenset(("LayerNormalization", "SimplifiedLayerNormalization"))


@dataclass(frozen=True)
class _Schema:
    """The types of an operator's inputs and outputs: a parameter such as `T`, or one type."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constraints: Mapping[str, tuple[str, ...]]  # parameter -> types it may stand for

    def input(self, position: int) -> str:
        """Return the type of an input; the last stands for the rest where any number is taken."""
        return self.inputs[min(position, len(self.inputs) - 1)]

    def output(self, position: int) -> str:
        return self.outputs[min(position, len(self.outputs) - 1)]

    def allowed(self, kind: str) -> tuple[str, ...]:
        """Return the types that a parameter may stand for, or the one type that it is."""
        return self.constraints.get(kind, (kind,))


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
    """Return whether an input cannot be float16 or bfloat16, as the scales of a Resize cannot."""
    schema = _schema(node.domain, node.op_type, version)
    return schema is None or _SHORT_FLOATS.isdisjoint(schema.allowed(schema.input(position)))


def output_is_fixed(node: onnx.NodeProto, position: int, version: int) -> bool:
    """Return whether an output is float32 whatever the inputs are, as the mean of a norm is."""
    schema = _schema(node.domain, node.op_type, version)
    if schema is None:
        return True
    kind = schema.output(position)
    follows_an_input = kind in schema.inputs and not _SHORT_FLOATS.isdisjoint(schema.allowed(kind))
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
    if node.op_type in _STASHES and position > 0:
        return int(TensorProto.FLOAT)
    schema = _schema(node.domain, node.op_type, version)
    if schema is None:
        return 0
    wanted = schema.output(position)
    same = (
        types[name]
        for index, name in enumerate(node.input)
        if name and types[name] and schema.input(index) == wanted
    )
    return next(same, _only_type(schema.allowed(wanted)))


@cache
def _schema(domain: str, operator: str, version: int) -> _Schema | None:
    """Return the schema of an operator, None where neither ONNX nor ONNX Runtime knows it."""
    if domain in _ONNX and defs.has(operator, max_inclusive_version=version):
        found = defs.get_schema(operator, version)
        return _Schema(
            tuple(item.type_str for item in found.inputs),
            tuple(item.type_str for item in found.outputs),
            _constraints(found.type_constraints),
        )
    return _runtime_schemas().get(("" if domain in _ONNX else domain, operator))


@cache
def _runtime_schemas() -> dict[tuple[str, str], _Schema]:
    """Return ONNX Runtime's own operators by domain and name, their latest version.

    Some are in ONNX's domain, and ONNX does not know them (SimplifiedLayerNormalization).
    """
    every = sorted(runtime.get_all_operator_schema(), key=lambda item: int(item.since_version))
    return {
        (str(item.domain), str(item.name)): _Schema(
            tuple(str(each.typeStr) for each in item.inputs),
            tuple(str(each.typeStr) for each in item.outputs),
            _constraints(item.type_constraints),
        )
        for item in every
    }


def _constraints(given: Iterable[defs.OpSchema.TypeConstraintParam]) -> dict[str, tuple[str, ...]]:
    return {item.type_param_str: tuple(item.allowed_type_strs) for item in given}


def _only_type(allowed: tuple[str, ...]) -> int:
    name = allowed[0].removeprefix("tensor(").removesuffix(")") if len(allowed) == 1 else ""
    return int(TensorProto.DataType.Value(name.upper())) if name else 0
