"""Rounds the matrices of a graph by what their outputs change on calibration rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import quantize_columns
from compressor.onnx_graph.block_weights import Blocks, quantize_blocks
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.gptq import (
    ActivationMoments,
    bias_correction,
    matmul_error,
    round_blocks,
    round_columns,
)
from compressor.onnx_graph.narrow_columns import NarrowColumns, narrow_columns
from compressor.onnx_graph.quantizable_weights import Use, find_uses, names_in_bodies
from compressor.passes.quantize.calibration import calibrate
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.settings import Int8Settings, IntegerSettings
from compressor.words import counted, verb_for

Floats = NDArray[np.float32]
Method = Literal["nearest", "gptq"]

# Operators that add a vector to each row of a matmul.
_ADDING = frozenset(("Add", "BiasGelu", "FastGelu", "Sum"))


def round_to_int8(quantization: Quantization[IntegerSettings]) -> None:
    """Move the matrices, in place, to where int8 will store them; correct biases.

    As the settings say; by default nothing is done. Raises `StepFailed` when a weight or an
    activation is not finite.
    """
    method = quantization.settings.rounding
    if not quantization.settings.rounds_by_rows:
        return

    def nearest(matrix: Floats) -> Floats:
        integers, scales = quantize_columns(matrix)
        return integers.astype(np.float32) * scales

    rounding = _Rounding(quantization, method)
    for name in rounding.names:
        plain = rounding.nearest(name, nearest)
        if method == "gptq":
            rounded = round_columns(rounding.matrix(name), rounding.moments(name).gram)
            rounding.finish(name, plain, rounded)
            rounding.replace(name, rounded)
        else:
            rounding.finish(name, plain, plain)
    rounding.report()


def round_to_blocks(
    quantization: Quantization[IntegerSettings], method: Method, *, bits: int, block_size: int
) -> dict[str, Blocks]:
    """Return the matrices in blocks, rows for columns, where gptq chooses; correct biases in place.

    Raises `StepFailed` when a weight or an activation is not finite.
    """
    if method == "nearest" and not quantization.settings.bias_correction:
        return {}

    def nearest(matrix: Floats) -> Floats:
        found = quantize_blocks(matrix.T, bits=bits, block_size=block_size, float16_scales=False)
        return found.restored().T

    rounding = _Rounding(quantization, method)
    chosen = {}
    for name in rounding.names:
        plain = rounding.nearest(name, nearest)
        if method == "gptq":
            matrix, gram = rounding.matrix(name), rounding.moments(name).gram
            chosen[name] = round_blocks(matrix, gram, bits=bits, block_size=block_size)
            rounding.finish(name, plain, chosen[name].restored().T)
        else:
            rounding.finish(name, plain, plain)
    rounding.report()
    return chosen


def round_to_narrow(quantization: Quantization[Int8Settings]) -> dict[str, NarrowColumns]:
    """Return the matrices in four bits, by name; none where the settings store them in int8.

    Biases are corrected in place where they say so. Raises `StepFailed` when a weight or an
    activation is not finite.
    """
    settings, graph = quantization.settings, quantization.graph
    if settings.matrices != "int4":
        return {}
    size = settings.matrix_block
    chosen = round_to_blocks(quantization, settings.rounding, bits=4, block_size=size)
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    uses = find_uses(graph.graph)
    found = {}
    for weight in quantization.matrices:
        blocks = chosen.get(weight.name)
        if blocks is None:
            columns = _as_multiplied(tensors[weight.name], uses[weight.name][0]).T
            try:
                blocks = quantize_blocks(columns, bits=4, block_size=size, float16_scales=False)
            except StepFailed as error:
                raise StepFailed(f"weight {weight.name} {error}") from error
        found[weight.name] = narrow_columns(blocks)
    return found


def _as_multiplied(tensor: TensorProto, use: Use) -> Floats:
    """Return a matrix as `(K, N)` and with its factor, as the matmul takes it."""
    transposed, factor = use.layout
    stored = numpy_helper.to_array(tensor)
    return np.asarray((stored.T if transposed else stored) * np.float32(factor))


class _Rounding:
    """The matrices of a graph, by name, with the moments of their inputs on calibration rows."""

    def __init__(self, quantization: Quantization[IntegerSettings], method: Method) -> None:
        self.names = [weight.name for weight in quantization.matrices]
        self._graph, self._context = quantization.graph, quantization.context
        self._method, self._corrects = method, quantization.settings.bias_correction
        self._constants = Constants(self._graph.graph)
        self._tensors = self._constants.tensors
        self._uses = find_uses(self._graph.graph)
        self._readers = Counter({name: len(readers) for name, readers in self._uses.items()})
        self._readers.update(names_in_bodies(self._graph.graph))
        rows = quantization.settings.rows
        found = calibrate(quantization, quantization.activations, ActivationMoments, num_rows=rows)
        self._moments, self._rows_words = found.statistics, found.rows_words
        self._errors: list[tuple[float, float]] = []
        self._corrected = 0

    def matrix(self, name: str) -> Floats:
        """Return a matrix as `(K, N)` and with its factor, as the matmul takes it."""
        return _as_multiplied(self._tensors[name], self._uses[name][0])

    def moments(self, name: str) -> ActivationMoments:
        """Return the moments of everything that a matrix is multiplied with."""
        first, *rest = [self._moments[use.node.input[0]] for use in self._uses[name]]
        for other in rest:
            first = first + other
        return first

    def nearest(self, name: str, quantize: Callable[[Floats], Floats]) -> Floats:
        try:
            return quantize(self.matrix(name))
        except StepFailed as error:
            raise StepFailed(f"weight {name} {error}") from error

    def replace(self, name: str, rounded: Floats) -> None:
        """Store another matrix, given as the matmul takes it."""
        transposed, factor = self._uses[name][0].layout
        stored = rounded / np.float32(factor)
        values = np.ascontiguousarray(stored.T if transposed else stored)
        self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    def finish(self, name: str, nearest: Floats, rounded: Floats) -> None:
        """Note what rounding changes, and take its mean out where a bias can."""
        matrix, moments = self.matrix(name), self.moments(name)
        errors = [matmul_error(matrix, item, moments) for item in (nearest, rounded)]
        self._errors.append((errors[0], errors[1]))
        if not self._corrects:
            return
        for use in self._uses[name]:
            if (bias := self._bias_after(use, matrix.shape[1])) is not None:
                moments = self._moments[use.node.input[0]]
                self._add(bias, bias_correction(matrix, rounded, moments), f"{name}_bias")
                self._corrected += 1

    def _bias_after(self, use: Use, width: int) -> Use | None:
        """Return where a constant `(width,)` is added to a matmul that nothing else reads."""
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
        changed = self._constants.array(name) + values
        if self._readers[name] == 1:
            self._tensors[name].CopyFrom(numpy_helper.from_array(changed, name))
            return
        self._readers[name] -= 1
        own = self._constants.add(own_name, changed)
        self._readers[own] = 1
        bias.node.input[bias.position] = own

    def report(self) -> None:
        """Say what was gained."""
        rows = f"on {self._rows_words}"
        if self._method == "gptq" and self._errors:
            parts = [after / before for before, after in self._errors if before > 0]
            part = float(np.median(parts)) if parts else 1.0
            num = len(self._errors)
            self._context.note(
                f"Rounded by what {counted(num, 'matmul')} {verb_for(num, 'changes', 'change')} "
                f"{rows}: {100 * part:.0f}% of the error of rounding to the nearest (median)."
            )
        if self._corrects:
            self._context.note(f"{self._corrected} biases corrected {rows}.")
