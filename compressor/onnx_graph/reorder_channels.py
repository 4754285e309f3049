"""Reorders the inner channels of feed-forward blocks, so that the pair rule costs them nothing.

The rule that keeps integer matmuls exact (`affine.py`) looks at rows 2i and 2i + 1 of a matrix:
two large weights of equal sign in one pair make the scale of their column coarser. Which channels
are neighbours is free inside a block of two matmuls with only elementwise operators between them:
the same permutation of the first matrix's columns, of what is added to or multiplied with them, and
of the second matrix's rows leaves every sum what it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import pair_order
from compressor.onnx_graph.operators import ELEMENTWISE
from compressor.onnx_graph.quantizable_weights import (
    QuantizableWeight,
    Use,
    find_quantizable_weights,
    find_uses,
    names_in_bodies,
)


def reorder_inner_channels(
    model: onnx.ModelProto, weights: Iterable[QuantizableWeight]
) -> tuple[str, ...]:
    """Permute the rows of those `weights` that allow it, in place, and return their names.

    A matrix allows it when everything it is multiplied with comes, elementwise, from matmuls with
    constant matrices, and nothing else reads what lies between. Matrices whose scales would not
    get finer keep their order. The graph computes what it did before; only the order in which each
    sum is taken changes.

    Raises `StepFailed` when such a matrix is not finite.
    """
    graph = _Graph(model)
    reordered = []
    for weight in weights:
        if weight.kind != "matrix" or (block := graph.block_before(weight.name)) is None:
            continue
        try:
            order = pair_order(graph.matrix(weight.name))
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error
        if order is not None:
            graph.permute(weight.name, block, order)
            reordered.append(weight.name)
    return tuple(reordered)


@dataclass
class _Block:
    """What a permutation of the channels before a matrix has to reach."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)  # matrices whose columns are the channels
    vectors: list[Use] = field(default_factory=list)  # constants with one number for each channel


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.initializers = model.graph.initializer
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.uses = find_uses(model.graph)
        self.outside = {item.name for item in (*model.graph.input, *model.graph.output)}
        self.outside |= set(names_in_bodies(model.graph))
        found = find_quantizable_weights(model)
        self.matrices = {
            weight.name for weight in found if weight.kind == "matrix" and weight.obstacle is None
        }

    def matrix(self, weight: str) -> NDArray[np.float32]:
        """Return a matrix as `(K, N)`, whichever way it is stored."""
        values = numpy_helper.to_array(self.tensors[weight])
        return values.T if self._is_transposed(weight) else values

    def block_before(self, weight: str) -> _Block | None:
        """Return what lies between the matmuls before `weight` and its own; None if not free."""
        if weight not in self.matrices:
            return None
        width = len(self.matrix(weight))
        block, seen = _Block(), set()
        waiting = [use.node.input[0] for use in self.uses[weight]]
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            node = self.producers.get(value)
            inputs = self._inputs_to_permute(node, width, block) if node is not None else None
            if inputs is None:
                return None
            waiting += inputs
        return block if self._is_closed(block, weight, seen) else None

    def permute(self, weight: str, block: _Block, order: NDArray[np.intp]) -> None:
        """Apply `order` to the rows of `weight` and to every channel before it."""
        self._take(weight, order, axis=1 if self._is_transposed(weight) else 0)
        for source in block.sources:
            self._take(source, order, axis=0 if self._is_transposed(source) else 1)
        places: dict[str, list[Use]] = defaultdict(list)
        for use in block.vectors:
            places[use.node.input[use.position]].append(use)
        for name, uses in places.items():
            values = numpy_helper.to_array(self.tensors[name])
            if np.array_equal(values.take(order, axis=-1), values):
                continue  # such as the zeros that layers of a fresh model share
            is_shared = name in self.outside or len(self.uses[name]) > len(uses)
            self._take(self._own_copy(name, uses) if is_shared else name, order, axis=-1)

    def _inputs_to_permute(
        self, node: onnx.NodeProto, width: int, block: _Block
    ) -> list[str] | None:
        """Add `node` to `block` and return the values before it; None when it mixes channels."""
        is_matmul = len(node.input) > 1 and node.input[1] in self.matrices
        if not is_matmul and node.op_type not in ELEMENTWISE:
            return None
        if is_matmul and self.matrix(node.input[1]).shape[1] != width:
            return None
        block.nodes.append(node)
        computed = []
        for position, name in list(enumerate(node.input))[2 if is_matmul else 0 :]:
            tensor = self.tensors.get(name)
            if tensor is None:
                computed.append(name)
            elif tuple(tensor.dims)[-1:] == (width,) and _size(tensor) == width:
                block.vectors.append(Use(node, position))
            elif _size(tensor) != 1:
                return None
        if is_matmul:
            block.sources.add(node.input[1])
            # What a Gemm adds may be one number for each row, which is no channel.
            return None if any(computed) else []
        return [name for name in computed if name]

    def _is_closed(self, block: _Block, weight: str, values: set[str]) -> bool:
        """Return whether nothing outside the block reads its values and first matrices."""
        inside = {node.output[0] for node in block.nodes}
        last = {use.node.output[0] for use in self.uses[weight]}
        inner = all(
            use.node.output[0] in (inside | last if use.position == 0 else inside)
            for value in values
            for use in self.uses[value]
        )
        sources = all(
            use.node.output[0] in inside - last
            for source in block.sources
            for use in self.uses[source]
        )
        return inner and sources and not values & self.outside

    def _is_transposed(self, weight: str) -> bool:
        return self.uses[weight][0].layout[0]

    def _take(self, name: str, order: NDArray[np.intp], *, axis: int) -> None:
        values = numpy_helper.to_array(self.tensors[name])
        permuted: NDArray[np.generic] = np.ascontiguousarray(values.take(order, axis=axis))
        self.tensors[name].CopyFrom(numpy_helper.from_array(permuted, name))

    def _own_copy(self, name: str, uses: list[Use]) -> str:
        """Give the nodes of `uses` a constant of their own, because others read it too."""
        copy = f"{name}_reordered"
        while copy in self.tensors:
            copy += "_"
        tensor = self.initializers.add()
        tensor.CopyFrom(self.tensors[name])
        tensor.name = copy
        self.tensors[copy] = tensor
        for use in uses:
            use.node.input[use.position] = copy
        return copy


def _size(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
