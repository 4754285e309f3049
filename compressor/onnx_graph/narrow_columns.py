"""Matrices that take four bits a weight in the file, and are int8 once it is open.

A graph holds integers of four bits and a factor for each block of a column, and a few nodes that
multiply and round them. All of these read constants, so ONNX Runtime (1.23 and newer, which cast
four bits) computes them once, when it opens the file, and the integer matmuls find the int8 weights
that they take anyway: half the bytes, the same time. `MatMulNBits` in its place (`weight_only.py`)
unpacks in every run.

Ref: Lin et al. 2024, arXiv:2405.04532, section 4.1, for four bits within the range of int8 columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.onnx_graph.affine import PAIR_MAX, WEIGHT_MAX, pair_sums, saturation_free_scales
from compressor.onnx_graph.block_weights import Blocks
from compressor.onnx_graph.constants import Constants

# What an integer of four bits goes through until it is int8.
_OPERATORS = ["Cast", "Mul", "Round", "Cast"]
_GROWTH = np.float32(1.002)  # of the scale of a column that a rounding took beyond the limits


@dataclass(frozen=True)
class NarrowColumns:
    """A matrix `(K, N)`: `values` in -8..7 times `factors` `(blocks, N)`, rounded, times `scales`.

    `block_size` rows share a factor, the last block may have fewer. `scales` are those of the int8
    columns, `(N,)`.
    """

    values: NDArray[np.int8]
    factors: NDArray[np.float16]
    scales: NDArray[np.float32]
    block_size: int

    def integers(self) -> NDArray[np.int8]:
        """Return the int8 weights, `(K, N)`, as the graph computes them."""
        return _widened(self.values, self.factors, _places(len(self.values), self.block_size))


def narrow_columns(blocks: Blocks) -> NarrowColumns:
    """Return columns of four bits as int8 columns of which no pair sums to more than 128.

    Rows of `blocks` are columns of the result. The int8 weights are off from what the blocks stand
    for by about half a scale, as those of any int8 column are.
    """
    values = np.ascontiguousarray(blocks.values.T)  # (K, N)
    steps = blocks.scales.astype(np.float32).T  # (blocks, N)
    scales = saturation_free_scales(np.ascontiguousarray(blocks.restored().T))
    places = _places(len(values), blocks.block_size)
    while True:
        factors = (steps / scales).astype(np.float16)
        exact = _rounded(values, factors, places).astype(np.int64)
        too_large = np.max(np.abs(exact), axis=0, initial=0) > WEIGHT_MAX
        too_large |= np.max(pair_sums(exact), axis=0, initial=0) > PAIR_MAX
        if not too_large.any():
            return NarrowColumns(values, factors, scales, blocks.block_size)
        scales = np.where(too_large, scales * _GROWTH, scales).astype(np.float32)


def store_narrow(model: onnx.ModelProto, columns: Mapping[str, NarrowColumns]) -> None:
    """Compute int8 constants, by their names, of four bits, in place; they stay the same numbers.

    Raises `KeyError` for a name that is no constant.
    """
    graph = model.graph
    constants = Constants(graph)
    nodes: list[onnx.NodeProto] = []
    places: dict[tuple[int, int], str] = {}

    for name, item in columns.items():
        graph.initializer.remove(constants.tensors[name])
        key = (len(item.values), item.block_size)
        if key not in places:
            places[key] = constants.add("block_of_row", _places(*key))
        stem = name.removesuffix("_int8")
        narrow = constants.add(f"{stem}_int4", item.values.astype(ml_dtypes.int4))
        factors = constants.add(f"{stem}_factors", item.factors)
        short, spread, floats, exact, rounded = (
            f"{stem}_{part}" for part in ("short", "spread", "floats", "exact", "rounded")
        )
        nodes += [
            helper.make_node("Gather", [factors, places[key]], [short], axis=0),
            helper.make_node("Cast", [short], [spread], to=TensorProto.FLOAT),
            helper.make_node("Cast", [narrow], [floats], to=TensorProto.FLOAT),
            helper.make_node("Mul", [floats, spread], [exact]),
            helper.make_node("Round", [exact], [rounded]),
            helper.make_node("Cast", [rounded], [name], to=TensorProto.INT8),
        ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def with_int8_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph as a runtime has it once it is open: int8 where the file has four bits.

    The same graph, not a copy, where it has none.
    """
    found = _chains(model.graph)
    if not found:
        return model
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made = {name for chain in found for name in chain.outputs}
    for chain in found:
        values, factors, places = (
            numpy_helper.to_array(tensors[name])
            for name in (chain.narrow, chain.factors, chain.places)
        )
        integers = _widened(values.astype(np.int8), factors, places)
        graph.initializer.append(numpy_helper.from_array(integers, chain.outputs[-1]))
    nodes = [node for node in graph.node if node.output[0] not in made]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    return opened


def factor_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the constants that hold factors of blocks, which are no weights."""
    return {chain.factors for chain in _chains(graph)}


@dataclass(frozen=True)
class _Chain:
    """The constants of one matrix and what is computed of them, the int8 weights last."""

    narrow: str
    factors: str
    places: str
    outputs: tuple[str, ...]


def _chains(graph: onnx.GraphProto) -> list[_Chain]:
    """Return what `store_narrow` wrote."""
    narrow = [item.name for item in graph.initializer if item.data_type == TensorProto.INT4]
    if not narrow:
        return []
    producers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    found = []
    for name in narrow:
        nodes = _read_by(name, readers)
        if [node.op_type for node in nodes] != _OPERATORS:
            continue
        floats, exact, rounded, integers = (node.output[0] for node in nodes)
        [spread] = [value for value in nodes[1].input if value != floats]
        gather = producers[producers[spread].input[0]]
        outputs = (gather.output[0], spread, floats, exact, rounded, integers)
        found.append(_Chain(name, gather.input[0], gather.input[1], outputs))
    return found


def _read_by(name: str, readers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the four nodes that read a value one after the other, fewer where there are not."""
    nodes: list[onnx.NodeProto] = []
    while len(nodes) < len(_OPERATORS) and (node := readers.get(name)) is not None:
        nodes.append(node)
        name = node.output[0]
    return nodes


def _places(rows: int, block_size: int) -> NDArray[np.int32]:
    """Return the block that each row of a matrix belongs to."""
    return np.arange(rows, dtype=np.int32) // np.int32(block_size)


def _rounded(
    values: NDArray[np.int8], factors: NDArray[np.float16], places: NDArray[np.int32]
) -> NDArray[np.float32]:
    return np.rint(values.astype(np.float32) * factors[places].astype(np.float32))


def _widened(
    values: NDArray[np.int8], factors: NDArray[np.float16], places: NDArray[np.int32]
) -> NDArray[np.int8]:
    return _rounded(values, factors, places).astype(np.int8)
