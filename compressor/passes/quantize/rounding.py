"""Rounds the matrices of a graph by what their products change on calibration rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import quantize_columns
from compressor.onnx_graph.block_weights import Blocks, quantize_blocks
from compressor.onnx_graph.embedding_tables import add_constant
from compressor.onnx_graph.gptq import (
    ActivationMoments,
    bias_correction,
    matmul_error,
    round_blocks,
    round_columns,
)
from compressor.onnx_graph.quantizable_weights import (
    QuantizableWeight,
    Use,
    activation_names,
    find_uses,
    names_in_bodies,
)
from compressor.passes.quantize.calibration import calibrate
from compressor.words import counted, verb_for

if TYPE_CHECKING:
    from compressor.models.onnx_model import OnnxModel
    from compressor.passes.base import PassContext

Floats = NDArray[np.float32]

# Operators that add a vector to each row of a product.
_ADDING = frozenset(("Add", "BiasGelu", "FastGelu", "Sum"))


@dataclass(frozen=True)
class Rounding:
    """How the integers of matrices are chosen, and on how many calibration rows."""

    method: Literal["nearest", "gptq"]
    corrects_biases: bool
    num_rows: int


def round_to_int8(
    graph: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    rounding: Rounding,
    *,
    model: OnnxModel,
    context: PassContext,
) -> None:
    """Move the matrices of `weights`, in place, to where int8 will store them; correct biases.

    Raises `StepFailed` when a weight or an activation is not finite.
    """

    def nearest(weight: Floats) -> Floats:
        integers, scales = quantize_columns(weight)
        return integers.astype(np.float32) * scales

    work = _Work(graph, weights, rounding, model=model, context=context)
    for weight in work.weights:
        plain = work.nearest(weight, nearest)
        if rounding.method == "gptq":
            rounded = round_columns(work.matrix(weight), work.moments(weight).gram)
            work.finish(weight, plain, rounded)
            work.replace(weight, rounded)
        else:
            work.finish(weight, plain, plain)
    work.report()


def round_to_blocks(
    graph: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    rounding: Rounding,
    *,
    bits: int,
    block_size: int,
    model: OnnxModel,
    context: PassContext,
) -> dict[str, Blocks]:
    """Return the matrices of `weights` in blocks, rows for columns; correct biases in place.

    Raises `StepFailed` when a weight or an activation is not finite.
    """

    def nearest(weight: Floats) -> Floats:
        found = quantize_blocks(weight.T, bits=bits, block_size=block_size, half_scales=False)
        return found.restored().T

    work = _Work(graph, weights, rounding, model=model, context=context)
    chosen = {}
    for weight in work.weights:
        plain = work.nearest(weight, nearest)
        if rounding.method == "gptq":
            gram = work.moments(weight).gram
            blocks = round_blocks(work.matrix(weight), gram, bits=bits, block_size=block_size)
            work.finish(weight, plain, blocks.restored().T)
            chosen[weight.name] = blocks
        else:
            work.finish(weight, plain, plain)
    work.report()
    return chosen


class _Work:
    """The matrices of a graph with what their inputs were on calibration rows."""

    def __init__(
        self,
        graph: onnx.ModelProto,
        weights: Sequence[QuantizableWeight],
        rounding: Rounding,
        *,
        model: OnnxModel,
        context: PassContext,
    ) -> None:
        self.weights = [weight for weight in weights if weight.kind == "matrix"]
        self._graph, self._rounding, self._context = graph, rounding, context
        self._tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
        self._uses = find_uses(graph.graph)
        self._readers = Counter({name: len(readers) for name, readers in self._uses.items()})
        self._readers.update(names_in_bodies(graph.graph))
        found = calibrate(
            graph,
            activation_names(graph, self.weights),
            num_rows=rounding.num_rows,
            model=model,
            context=context,
            watch=ActivationMoments,
        )
        self._moments, self._rows_words = found.statistics, found.rows_words
        self._errors: list[tuple[float, float]] = []
        self._corrected = 0

    def matrix(self, weight: QuantizableWeight) -> Floats:
        """Return a matrix as `(K, N)` and with its factor, as the product takes it."""
        transposed, factor = self._uses[weight.name][0].layout
        stored = numpy_helper.to_array(self._tensors[weight.name])
        return (stored.T if transposed else stored) * np.float32(factor)

    def moments(self, weight: QuantizableWeight) -> ActivationMoments:
        """Return the moments of everything that a matrix is multiplied with."""
        first, *rest = [self._moments[use.node.input[0]] for use in self._uses[weight.name]]
        for other in rest:
            first = first + other
        return first

    def nearest(self, weight: QuantizableWeight, quantize: Callable[[Floats], Floats]) -> Floats:
        try:
            return quantize(self.matrix(weight))
        except StepFailed as error:
            raise StepFailed(f"weight {weight.name} {error}") from error

    def replace(self, weight: QuantizableWeight, rounded: Floats) -> None:
        """Store another matrix, given as the product takes it."""
        transposed, factor = self._uses[weight.name][0].layout
        stored = rounded / np.float32(factor)
        values = np.ascontiguousarray(stored.T if transposed else stored)
        self._tensors[weight.name].CopyFrom(numpy_helper.from_array(values, weight.name))

    def finish(self, weight: QuantizableWeight, nearest: Floats, rounded: Floats) -> None:
        """Note what rounding changes, and take its mean out where a bias can."""
        matrix, moments = self.matrix(weight), self.moments(weight)
        errors = [matmul_error(matrix, item, moments) for item in (nearest, rounded)]
        self._errors.append((errors[0], errors[1]))
        if not self._rounding.corrects_biases:
            return
        for use in self._uses[weight.name]:
            if (bias := self._bias_after(use, matrix.shape[1])) is not None:
                moments = self._moments[use.node.input[0]]
                self._add(bias, bias_correction(matrix, rounded, moments), f"{weight.name}_bias")
                self._corrected += 1

    def _bias_after(self, use: Use, width: int) -> Use | None:
        """Return where a constant `(width,)` is added to a product that nothing else reads."""
        if use.node.op_type == "Gemm":
            is_plain = len(use.node.input) > 2 and use.number("beta", 1) == 1
            name = use.node.input[2] if is_plain else ""
            fits = name in self._tensors and tuple(self._tensors[name].dims) == (width,)
            return Use(use.node, 2) if fits else None
        readers = self._uses[use.node.output[0]]
        if len(readers) != 1 or readers[0].node.op_type not in _ADDING:
            return None
        [reader] = readers
        for position, name in enumerate(reader.node.input):
            if name in self._tensors and tuple(self._tensors[name].dims) == (width,):
                return Use(reader.node, position)
        return None

    def _add(self, bias: Use, values: Floats, own_name: str) -> None:
        """Add `values` to a constant; other readers of it keep what they had."""
        name = bias.node.input[bias.position]
        changed = numpy_helper.to_array(self._tensors[name]) + values
        if self._readers[name] == 1:
            self._tensors[name].CopyFrom(numpy_helper.from_array(changed, name))
            return
        self._readers[name] -= 1
        own = add_constant(self._graph, self._tensors, own_name, changed)
        self._readers[own] = 1
        bias.node.input[bias.position] = own

    def report(self) -> None:
        """Say what was gained."""
        rows = f"on {self._rows_words}"
        if self._rounding.method == "gptq" and self._errors:
            parts = [after / before for before, after in self._errors if before > 0]
            part = float(np.median(parts)) if parts else 1.0
            num = len(self._errors)
            self._context.note(
                f"Rounded by what {counted(num, 'product')} {verb_for(num, 'changes', 'change')} "
                f"{rows}: "
                f"{100 * part:.0f}% of the error of rounding to the nearest (median)."
            )
        if self._rounding.corrects_biases:
            self._context.note(f"{self._corrected} biases corrected {rows}.")
