"""Signed quantize-dequantize pairs around the matmuls of a graph, the int8 that TensorRT reads.

TensorRT computes a matmul in int8 where pairs of `QuantizeLinear` and `DequantizeLinear` stand
before it (explicit quantization). It takes constant scales and zero points of 0 alone: signed 8
bits with zero point 0, one scale for an activation, one for each output column of a weight. So
pairs stand before the two factors of a matmul and nowhere else; biases, residuals, normalisations,
softmax and GELU stay in float, where TensorRT fuses them into what comes before or after.

To any other runtime the graph is what it says: float matmuls of rounded numbers. Nothing of it is
an operator of ONNX Runtime's own, which TensorRT cannot read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import WEIGHT_MAX, finite
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, Use, find_uses

OLDEST_OPSET = 13  # the first whose DequantizeLinear has a scale for each column

Floats = NDArray[np.float32]

_SIGNIFICANT_BITS = 8  # of bfloat16
_SMALLEST_FLOAT16 = 2.0**-24  # of float16, and what all its smaller numbers are multiples of


@dataclass(frozen=True)
class SignedScales:
    """Scales of activations by their names: `value = scale * integer`, integers -128..127."""

    scales: Mapping[str, float]


def portable_scales(scales: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the next larger numbers that float32, float16 and bfloat16 all hold exactly.

    They have eight significant bits, so that a scale gets coarser by at most 1/128, and one below
    the normal numbers of float16 by at most 2^-24. A graph keeps its integers when the rest of it
    is converted to float16.
    """
    mantissa, exponent = np.frexp(scales)
    rounded = np.ldexp(np.ceil(np.ldexp(mantissa, _SIGNIFICANT_BITS)), exponent - _SIGNIFICANT_BITS)
    multiples: NDArray[np.float64] = np.ceil(rounded / _SMALLEST_FLOAT16)
    return np.asarray(multiples * _SMALLEST_FLOAT16, np.float32)


def quantize_symmetric(weight: Floats, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values and one scale for each place along `axis` of a matrix.

    The values lie in -127..127 and are off by at most half a scale; columns of zeros get scale 1.
    GPUs add up in 32 bits, so unlike in `affine.quantize_columns` no pair of weights has
    to be kept from overflowing 16, and each column uses the whole range.

    Raises `StepFailed` when a weight is not finite.
    """
    exact = finite(weight)
    largest = np.max(np.abs(exact), axis=1 - axis, initial=0.0)
    scales = portable_scales(np.where(largest == 0, 1.0, largest / WEIGHT_MAX))
    quotients = exact / np.expand_dims(scales.astype(np.float64), 1 - axis)
    return np.clip(np.rint(quotients), -WEIGHT_MAX, WEIGHT_MAX).astype(np.int8), scales


def insert_qdq(
    model: onnx.ModelProto, weights: Iterable[QuantizableWeight], activations: SignedScales
) -> None:
    """Store the matrices of `weights` as int8 behind a `DequantizeLinear`, in place.

    The activations that they multiply pass through `QuantizeLinear` and `DequantizeLinear`, once
    however many matmuls read them; what else reads them still gets the float values. The matmuls
    stay the operators they were. The float originals are removed.

    Raises `ValueError` when a weight is not a matrix, has an obstacle or is not finite,
    and when an activation has no scale; the graph is then not to be used.
    """
    writer = _Writer(model, activations)
    for weight in weights:
        if weight.kind != "matrix" or weight.obstacle is not None:
            reason = weight.obstacle or "it is an embedding table"
            raise ValueError(f"weight {weight.name} cannot be int8: {reason}")
        writer.store(weight)
    writer.finish()


class _Writer:
    """Collects the new nodes by their first reader, then writes the node list once."""

    def __init__(self, model: onnx.ModelProto, activations: SignedScales) -> None:
        self._graph = model.graph
        self._scales = activations.scales
        self._uses = find_uses(model.graph)
        self._constants = Constants(model.graph)
        self._removed: set[str] = set()
        self._pairs: dict[str, tuple[str, list[onnx.NodeProto]]] = {}  # by what they quantize

    def store(self, weight: QuantizableWeight) -> None:
        readers = self._uses[weight.name]
        axis = 0 if readers[0].layout[0] else 1  # a transposed weight has its columns in rows
        values = self._constants.array(weight.name)
        try:
            integers, scales = quantize_symmetric(values, axis)
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error
        names = [
            self._constants.add(f"{weight.name}_int8", integers),
            self._constants.add(f"{weight.name}_scale", scales),
        ]
        output = self._constants.new_name(f"{weight.name}_dequantized")
        inputs = [*names, self._zero_point(scales.shape)]
        node = helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=axis)
        self._pairs[weight.name] = output, [node]
        self._removed.add(weight.name)
        for use in readers:
            self._quantize(use)
            use.node.input[1] = output

    def finish(self) -> None:
        """Write each new node before its first reader, and drop the float weights."""
        waiting = dict(self._pairs.values())
        ordered: list[onnx.NodeProto] = []
        for node in self._graph.node:
            for name in node.input:
                ordered += waiting.pop(name, [])
            ordered.append(node)
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        for name in self._removed:
            self._graph.initializer.remove(self._constants.tensors[name])
        described = [info for info in self._graph.value_info if info.name not in self._removed]
        del self._graph.value_info[:]
        self._graph.value_info.extend(described)

    def _quantize(self, use: Use) -> None:
        """Let a matmul read its activation through a pair."""
        value = use.node.input[0]
        if value not in self._pairs:
            if value not in self._scales:
                raise ValueError(f"activations {value} have no scale")
            scale = portable_scales(np.array(self._scales[value], np.float64))
            constants = [self._constants.add(f"{value}_scale", scale), self._zero_point(())]
            integers = self._constants.new_name(f"{value}_int8")
            output = self._constants.new_name(f"{value}_dequantized")
            nodes = [
                helper.make_node("QuantizeLinear", [value, *constants], [integers], name=integers),
                helper.make_node("DequantizeLinear", [integers, *constants], [output], name=output),
            ]
            self._pairs[value] = output, nodes
        use.node.input[0] = self._pairs[value][0]

    def _zero_point(self, shape: tuple[int, ...]) -> str:
        """Return a constant of zeros; without one, `QuantizeLinear` would give unsigned bytes."""
        name = "zero_point" if not shape else f"zero_point_{shape[0]}"
        return self._constants.add_once(name, np.zeros(shape, np.int8))
