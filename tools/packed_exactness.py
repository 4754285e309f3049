"""Recomputes what the operators of packed weights make of their integers.

`GatherBlockQuantized` is asked for every row of its table. `MatMulNBits` with activations of 8 bits
rounds each block of a token to -127..127 itself; here it gets integers that this leaves as they
are, and scales of 1, so that its floats are the sums of its integer products.

Such a product saturates on no x86 CPU: four bits times seven fit twice into 16, and for eight bits
ONNX Runtime's kernel without VNNI masks one of two neighbours before each `vpmaddubsw`. Confirmed
with the most extreme integers under an emulation of AVX2 without VNNI (`tools/check_avx2.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from bare_operators import open_nodes
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.packed_weights import (
    PackedWeight,
    multiplies_integers,
    packed_weights,
    unpack,
)

Array = NDArray[Any]

_LARGEST = 127  # integer of an activation
_RANDOM_ROWS = 5  # an odd number, as kernels take rows in pairs
_WORST_COLUMNS = 4
# Channels that are multiplied at once: more sums than a float32 holds exactly otherwise.
_INNER = 1024


def check_packed(
    model: onnx.ModelProto, seed: int = 0
) -> Iterator[tuple[onnx.NodeProto, int, int]]:
    """Yield each such node, and each lookup in packed rows, with how much was compared and wrong.

    Raises `ValueError` for zero points and for weights or scales that are not constant.
    """
    constants = {item.name: item for item in model.graph.initializer}
    packed = packed_weights(model)
    random = np.random.default_rng(seed)
    for node in model.graph.node:
        if node.op_type == "GatherBlockQuantized":
            yield node, *_check_rows(node, _packed(node, packed, constants, 0), constants)
        elif multiplies_integers(node):
            found = _packed(node, packed, constants, 1)
            yield node, *_check_product(node, found, constants, random)


def _packed(
    node: onnx.NodeProto,
    packed: Mapping[str, PackedWeight],
    constants: Mapping[str, TensorProto],
    place: int,
) -> PackedWeight:
    name = f"{node.op_type} {node.name or node.output[0]}"
    found = packed.get(node.input[place])
    if found is None or found.scales not in constants:
        raise ValueError(f"{name} has weights or scales that are not constant")
    if found.zero_points:
        raise ValueError(f"{name} has zero points, which are not recomputed here")
    return found


def _integers(packed: PackedWeight, tensor: TensorProto) -> NDArray[np.int64]:
    """Return the integers of a packed constant, `(rows, width)`."""
    values = numpy_helper.to_array(tensor).reshape(packed.rows, -1)
    return unpack(values, packed.bits, packed.width).astype(np.int64) - (1 << (packed.bits - 1))


def _check_rows(
    node: onnx.NodeProto, packed: PackedWeight, constants: Mapping[str, TensorProto]
) -> tuple[int, int]:
    scales = constants[packed.scales]
    session = open_nodes(
        [node], {node.input[1]: TensorProto.INT64}, [constants[node.input[0]], scales]
    )
    found = session.run(None, {node.input[1]: np.arange(packed.rows)})[0]
    factors = numpy_helper.to_array(scales).reshape(packed.rows, -1)
    spread = np.repeat(factors, packed.block_size, axis=1)[:, : packed.width]
    expected = _integers(packed, constants[node.input[0]]).astype(factors.dtype) * spread
    return expected.size, int(np.sum(found != expected))


def _check_product(
    node: onnx.NodeProto,
    packed: PackedWeight,
    constants: Mapping[str, TensorProto],
    random: np.random.Generator,
) -> tuple[int, int]:
    stored = numpy_helper.to_array(constants[node.input[1]])  # (N, blocks, bytes of a block)
    weight = _integers(packed, constants[node.input[1]])  # (N, K)
    compared = wrong = 0
    for start in range(0, packed.width, _INNER):
        part = weight[:, start : start + _INNER]
        blocks = slice(start // packed.block_size, -(-(start + part.shape[1]) // packed.block_size))
        rows = _activations(part, packed.block_size, random)
        expected = rows @ part.T
        session = _product_of(node, stored[:, blocks], part.shape[1])
        floats = rows.astype(np.float32)
        # One row alone runs in another kernel than several.
        alone = [session.run(None, {"values": row[None]})[0] for row in floats]
        for found in (session.run(None, {"values": floats})[0], np.concatenate(alone)):
            compared += expected.size
            wrong += int(np.sum(found != expected))
    return compared, wrong


def _product_of(node: onnx.NodeProto, stored: Array, inner: int) -> Any:
    """Return a session of `node` for `inner` of its channels, with scales of 1."""
    own = helper.make_node(
        node.op_type, ["values", "weight", "scales"], ["sums"], domain=node.domain
    )
    own.attribute.extend(item for item in node.attribute if item.name != "K")
    own.attribute.append(helper.make_attribute("K", inner))
    scales = np.ones(stored.shape[:2], np.float32)
    tensors = {"weight": np.ascontiguousarray(stored), "scales": scales}
    constants = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    return open_nodes([own], {"values": TensorProto.FLOAT}, constants)


def _activations(
    weight: NDArray[np.int64], block_size: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Return rows of integers, `(rows, K)`, with the largest in each block, so that its step is 1.

    Random ones, the largest throughout, and what gives some columns of `weight` their largest sums.
    """
    inner = weight.shape[1]
    rows = random.integers(-_LARGEST, _LARGEST + 1, size=(_RANDOM_ROWS, inner))
    rows[:, ::block_size] = _LARGEST
    worst = np.argsort(-np.abs(weight).sum(axis=1))[:_WORST_COLUMNS]
    signs = np.where(weight[worst] < 0, -1, 1)
    full = np.ones((1, inner), np.int64)
    return np.concatenate([rows, _LARGEST * full, _LARGEST * signs, -_LARGEST * signs])
