"""Float vectors that a graph gives become int8 numbers, or one bit for each number.

Arrays and graphs only: what the numbers mean, and how codes are compared, is the task's affair.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_LARGEST_CODE = 127
_BITS = np.array([128, 64, 32, 16, 8, 4, 2, 1], dtype=np.float32)  # as `numpy.packbits` orders them


def int8_scale(largest: float) -> np.float32:
    """Return the one scale with which numbers up to `largest`, its sign aside, are int8.

    1 where all numbers are 0.
    """
    return np.float32(largest / _LARGEST_CODE) if largest > 0 else np.float32(1.0)


def give_int8(model: onnx.ModelProto, output: str, scale: np.float32) -> None:
    """Let the graph give its float output, shape `(batch, width)`, as int8, in place.

    A number is divided by `scale` and rounded half to even; what lies outside -128..127 is clipped.
    Raises `ValueError` where there is no such output.
    """
    source = _set_apart(model, output, TensorProto.INT8)
    constants: dict[str, NDArray[np.generic]] = {
        "scale": np.asarray(scale),
        "zero_point": np.zeros((), dtype=np.int8),
    }
    names = _add(model, output, constants)
    node = helper.make_node("QuantizeLinear", [source, *names], [output], name=f"{output}_quantize")
    model.graph.node.append(node)


def give_bits(model: onnx.ModelProto, output: str, width: int) -> None:
    """Let the graph give one bit for each number of its float output `(batch, width)`, in place.

    A bit is 1 where the number is above 0. Eight of them are a byte of the uint8 output, shape
    `(batch, ceil(width / 8))`, the first number in the highest bit; bits of the last byte that no
    number fills are 0 (`numpy.packbits` along the last axis). Raises `ValueError` where there is no
    such output.
    """
    source = _set_apart(model, output, TensorProto.UINT8)
    missing = -width % len(_BITS)
    constants: dict[str, NDArray[np.generic]] = {
        "zero": np.zeros((), dtype=np.float32),
        "in_bytes": np.array([0, (width + missing) // len(_BITS), len(_BITS)], dtype=np.int64),
        "bits": _BITS,
    }
    if missing:
        constants["missing"] = np.array([0, 0, 0, missing], dtype=np.int64)
    zero, in_bytes, bits, *pads = _add(model, output, constants)
    signs, floats = f"{output}_signs", f"{output}_signs_float"
    nodes = [
        helper.make_node("Greater", [source, zero], [signs]),
        helper.make_node("Cast", [signs], [floats], to=TensorProto.FLOAT),
    ]
    if missing:
        nodes.append(helper.make_node("Pad", [floats, *pads], [f"{floats}_padded"]))
        floats = f"{floats}_padded"
    nodes += [
        helper.make_node("Reshape", [floats, in_bytes], [f"{output}_eights"]),
        # Sums of powers of two up to 255 are exact in float32, and any provider has the matmul.
        helper.make_node("MatMul", [f"{output}_eights", bits], [f"{output}_bytes_float"]),
        helper.make_node("Cast", [f"{output}_bytes_float"], [output], to=TensorProto.UINT8),
    ]
    for node in nodes:
        node.name = f"{output}_{node.op_type.lower()}_{node.output[0]}"
    model.graph.node.extend(nodes)
    [given] = (item for item in model.graph.output if item.name == output)
    given.type.tensor_type.shape.dim[1].dim_value = (width + missing) // len(_BITS)


def _set_apart(model: onnx.ModelProto, output: str, integer: int) -> str:
    """Give the float output another name inside the graph, and say which type it has now."""
    given = [item for item in model.graph.output if item.name == output]
    if not given or given[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ValueError(f"the graph has no float32 output called '{output}'")
    inner = f"{output}_float"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == output:
                    names[place] = inner
    given[0].type.tensor_type.elem_type = integer
    return inner


def _add(
    model: onnx.ModelProto, output: str, constants: dict[str, NDArray[np.generic]]
) -> list[str]:
    """Add constants, named after the output, and return their names."""
    names = [f"{output}_{name}" for name in constants]
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in zip(names, constants.values(), strict=True)
    )
    return names
