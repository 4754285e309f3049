"""Integers of fewer than eight bits as ONNX Runtime packs them, and which constants hold such.

A packed constant is a tensor of bytes: its shape says nothing about how many weights it holds, the
operator that reads it does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Bytes = NDArray[np.uint8]

# Where the operators that read packed weights find (weights, scales, zero points).
_LOOKUP = "GatherBlockQuantized"
_INPUTS = {_LOOKUP: (0, 2, 3), "MatMulNBits": (1, 2, 3)}
_INT8_ACTIVATIONS = 4  # the accuracy level of a MatMulNBits


@dataclass(frozen=True)
class PackedWeight:
    """What the bytes of one constant stand for: `rows` times `width` integers of `bits` bits.

    Rows are those of a table, or the output columns of a matmul. `block_size` neighbours in a row
    share one entry of `scales` and of `zero_points`, which are names; without zero points, the
    middle of the range stands for 0. One that `refines` has further digits of another table's rows
    and no weights of its own (`onnx_graph/embedding_tables.py`).
    """

    bits: int
    rows: int
    width: int
    block_size: int
    scales: str
    zero_points: str
    refines: bool = False

    @property
    def num_elements(self) -> int:
        """Return the number of weights; what fills up the last block of a row is none."""
        return self.rows * self.width

    def count_nonzero(self, packed: Bytes, zero_points: NDArray[Any] | None) -> int:
        """Return how many weights differ from their zero point."""
        values = unpack(packed.reshape(self.rows, -1), self.bits, self.width)
        blocks = -(-self.width // self.block_size)
        zeros: NDArray[Any] = np.full((self.rows, blocks), 1 << (self.bits - 1))
        if zero_points is not None and zero_points.dtype == np.uint8:
            zeros = unpack(zero_points.reshape(self.rows, -1), self.bits, blocks)
        elif zero_points is not None:
            zeros = zero_points.reshape(self.rows, blocks)
        spread = np.repeat(zeros, self.block_size, axis=1)[:, : self.width]
        return int(np.count_nonzero(values != spread))


def packed_weights(model: onnx.ModelProto) -> dict[str, PackedWeight]:
    """Return the packed constants of a graph by their names.

    Tables of a type of four bits, such as int4, are not among them: their shape is what it says.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    producers = {name: node for node in model.graph.node for name in node.output}
    is_bytes = {
        name: tensor.data_type == onnx.TensorProto.UINT8 for name, tensor in tensors.items()
    }
    lookups = {
        node.input[1]
        for node in model.graph.node
        if node.op_type == _LOOKUP or (node.op_type == "Gather" and is_bytes.get(node.input[0]))
    }
    for node in model.graph.node:
        if node.op_type not in _INPUTS:
            continue
        weight, scales, zero_points = (
            node.input[place] if place < len(node.input) else "" for place in _INPUTS[node.op_type]
        )
        tensor = tensors.get(weight)
        if tensor is None or tensor.data_type != onnx.TensorProto.UINT8:
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        bits = int(attributes.get("bits", 4))
        refines = False
        if node.op_type == "MatMulNBits":
            rows, width = int(attributes["N"]), int(attributes["K"])
        else:
            rows, width = tensor.dims[0], tensor.dims[-1] * 8 // bits
            refines = _refines(node, producers, lookups)
        block_size = int(attributes.get("block_size", 128))
        found[weight] = PackedWeight(bits, rows, width, block_size, scales, zero_points, refines)
    return found


def multiplies_integers(node: onnx.NodeProto) -> bool:
    """Return whether a node is a `MatMulNBits` that rounds its activations to 8 bits on a CPU."""
    levels = [item.i for item in node.attribute if item.name == "accuracy_level"]
    return node.op_type == "MatMulNBits" and levels == [_INT8_ACTIVATIONS]


def _refines(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], lookups: Collection[str]
) -> bool:
    """Return whether a lookup's index was looked up itself, by that of packed bytes or of codes."""
    cast = producers.get(node.input[1])
    place = producers.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
    return place is not None and place.op_type == "Gather" and place.input[1] in lookups


def pack(values: Bytes, bits: int) -> Bytes:
    """Return `values`, shape `(rows, width)`, each below `2 ** bits`, with the first lowest.

    The result has shape `(rows, ceil(width * bits / 8))`; what is left of the last byte is 0.

    >>> pack(np.array([[1, 2, 3]], np.uint8), 4).tolist()
    [[33, 3]]
    """
    per_byte = 8 // bits
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % per_byte)))
    packed = np.zeros((len(padded), padded.shape[1] // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= padded[:, place::per_byte] << np.uint8(bits * place)
    return packed


def unpack(packed: Bytes, bits: int, width: int) -> Bytes:
    """Return the `(rows, width)` integers that `pack` made `packed` of."""
    per_byte = 8 // bits
    values = np.empty((len(packed), packed.shape[1] * per_byte), np.uint8)
    for place in range(per_byte):
        values[:, place::per_byte] = packed >> np.uint8(bits * place) & np.uint8(2**bits - 1)
    return values[:, :width]
