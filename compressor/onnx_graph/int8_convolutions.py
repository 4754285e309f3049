"""Int8 convolutions whose values stay integers from one to the next.

`QLinearConv` reads and gives unsigned integers with scales that calibration fixed, adds its bias in
32 bits, and cuts off at the ends of its range, so that a ReLU after it costs nothing. Values become
floats only where something else reads them: max pooling and the sums of residual networks are
computed of integers too. A filter has one scale for each output channel. ONNX Runtime multiplies it
by what lies below it position by position, all channels of one after the other, so its pairs are
kept from overflowing 16 bits like those of a matrix (`affine.py`); filters that convolve each
channel alone are multiplied in 32 bits, and use the whole range.

Scales at run time (`ConvInteger`) took 1.4 times as long as floats, with a ResNet-18 on one thread
with VNNI, where these took a third to a half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import WEIGHT_MAX, quantize_columns, quantize_rows
from compressor.onnx_graph.constants import Constants
from compressor.onnx_graph.quantizable_weights import (
    ENDS_OF_RANGES,
    QuantizableWeight,
    convolves_channels_alone,
    find_uses,
    names_in_bodies,
)
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint

Floats = NDArray[np.float32]

_LARGEST = 255  # of unsigned 8 bits
_LARGEST_BIAS = 2**30  # in units of the sum's scale; the sum itself has as much
_BIAS_OF_ZEROS = 2**24  # where a filter is all zeros, so that its bias alone sets its scale
_CONTRIB = "com.microsoft"


def convolution_values(
    model: onnx.ModelProto, weights: Iterable[QuantizableWeight]
) -> tuple[str, ...]:
    """Return the activations that the filters among `weights` need scales of, each once.

    They are what convolutions read, and what they give behind a ReLU.
    """
    graph = _Graph(model, weights)
    found: dict[str, None] = {}
    for node in graph.convolutions.values():
        found |= {node.input[0]: None, graph.result(node): None}
    return tuple(found)


def store_int8_convolutions(
    model: onnx.ModelProto,
    weights: Iterable[QuantizableWeight],
    scales: Mapping[str, ScaleAndZeroPoint],
) -> None:
    """Store the filters of `weights` as int8 and convolve integers with them, in place.

    `scales` are those of `convolution_values`. What lies between two such convolutions stays
    integers as far as it only pools, adds two of them or cuts off at 0. The float originals are
    removed.

    Raises `StepFailed` when a filter or bias is not finite, and `ValueError` when a weight has an
    obstacle; the graph is then not to be used.
    """
    weights = tuple(weights)
    for weight in weights:
        if weight.kind != "filter" or weight.obstacle is not None:
            reason = weight.obstacle or "it is no filter"
            raise ValueError(f"weight {weight.name} cannot be a filter of int8: {reason}")
    if weights:
        _Writer(model, weights, scales).write()


def quantize_filter(
    values: Floats, bias: Floats | None, input_scale: float, *, alone: bool
) -> tuple[NDArray[np.int8], Floats, NDArray[np.int32] | None]:
    """Return int8 filters, one scale for each, `(M,)`, and the bias in units of the sums' scales.

    `values` has shape `(M, C / groups, ...)`. A scale is large enough that the bias fits into 32
    bits beside the largest sum of products; `alone` is whether each channel is convolved alone.

    Raises `StepFailed` when a filter or bias is not finite.
    """
    moved = np.moveaxis(values, 1, -1)  # channels last, as the kernel multiplies them
    rows = moved.reshape(len(values), -1)
    if alone:
        integers, scales = quantize_rows(rows)
    else:
        turned, scales = quantize_columns(rows.T)
        integers = np.ascontiguousarray(turned.T)
    units = None
    if bias is not None:
        sizes = np.abs(bias.astype(np.float64)) / input_scale
        if not np.isfinite(sizes).all():
            raise StepFailed("has a bias of NaN or infinity, which no integer can stand for")
        # A filter of zeros got a scale of 1, which says nothing of how fine its bias is.
        empty = ~rows.any(axis=1) & (sizes > 0)
        scales[empty] = sizes[empty] / _BIAS_OF_ZEROS
        coarse = scales < sizes / _LARGEST_BIAS
        scales[coarse] = sizes[coarse] / _LARGEST_BIAS
        quotients = rows[coarse] / scales[coarse, None].astype(np.float64)
        integers[coarse] = np.clip(np.rint(quotients), -WEIGHT_MAX, WEIGHT_MAX)
        steps = scales.astype(np.float64) * input_scale
        units = np.rint(bias / steps).astype(np.int32)
    filters = np.moveaxis(integers.reshape(moved.shape), -1, 1)
    return np.ascontiguousarray(filters), scales, units


@dataclass(frozen=True)
class _Integers:
    """The integers of a value, by name, with what they stand for."""

    name: str
    meaning: ScaleAndZeroPoint


class _Graph:
    """The convolutions of a graph whose filters become integers."""

    def __init__(self, model: onnx.ModelProto, weights: Iterable[QuantizableWeight]) -> None:
        self.graph = model.graph
        self.constants = Constants(self.graph)
        self.uses = find_uses(self.graph)
        self.outside = {item.name for item in self.graph.output}
        self.outside |= set(names_in_bodies(self.graph))
        filters = {weight.name for weight in weights if weight.kind == "filter"}
        self.convolutions = {
            node.output[0]: node
            for node in self.graph.node
            if node.op_type == "Conv" and node.input[1] in filters
        }

    def result(self, node: onnx.NodeProto) -> str:
        """Return what a node gives, behind a function that only cuts it off."""
        function = self.function_after(node)
        found: str = (node if function is None else function).output[0]
        return found

    def function_after(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return what cuts off all that a node gives at 0, and nothing else reads that."""
        readers = self.uses[node.output[0]]
        if len(readers) != 1 or node.output[0] in self.outside:
            return None
        [reader] = (use.node for use in readers)
        is_plain = reader.op_type in ENDS_OF_RANGES and self.ends(reader) is not None
        return reader if is_plain else None

    def ends(self, function: onnx.NodeProto) -> tuple[float, float] | None:
        """Return between which numbers a function cuts off, from 0 on; None where it does not."""
        if function.op_type == "Relu":
            return 0.0, np.inf
        attributes = {item.name: item.f for item in function.attribute}  # before operator set 11
        ends = []
        for position, name in enumerate(("min", "max"), start=1):
            given = function.input[position] if position < len(function.input) else ""
            if given and given not in self.constants.tensors:
                return None
            value = self.constants.array(given).item() if given else np.inf
            ends.append(attributes.get(name, value))
        return (0.0, ends[1]) if ends[0] == 0 else None


class _Writer(_Graph):
    """Writes the nodes of the new graph in their order."""

    def __init__(
        self,
        model: onnx.ModelProto,
        weights: Iterable[QuantizableWeight],
        scales: Mapping[str, ScaleAndZeroPoint],
    ) -> None:
        super().__init__(model, weights)
        self.opsets = model.opset_import
        self.scales = scales
        self.wanted = {node.input[0] for node in self.convolutions.values()}
        self.folded: set[str] = set()  # outputs of functions that a range cuts off in their place
        self.integers: dict[str, _Integers] = {}
        self.floats = {*(item.name for item in self.graph.input), *self.constants.tensors}
        self.nodes: list[onnx.NodeProto] = []

    def write(self) -> None:
        """Replace the nodes, and drop the float filters and what else nothing reads."""
        for node in self.graph.node:
            if node.output and node.output[0] in self.folded:
                continue
            if node.output and node.output[0] in self.convolutions:
                self._convolve(node)
            elif not (self._pool(node) or self._add(node)):
                self._keep(node)
        removed = {node.input[1] for node in self.convolutions.values()}
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input} | self.outside
        biases = {node.input[2] for node in self.convolutions.values() if len(node.input) > 2}
        removed |= biases - read
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in removed]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        known = {name for node in self.nodes for name in node.output}
        described = [info for info in self.graph.value_info if info.name in known]
        del self.graph.value_info[:]
        self.graph.value_info.extend(described)

    def _keep(self, node: onnx.NodeProto) -> None:
        for name in node.input:
            self._as_float(name)
        self.nodes.append(node)
        self.floats.update(node.output)

    def _as_float(self, value: str) -> None:
        if value in self.floats or value not in self.integers:
            return
        found = self.integers[value]
        inputs = [found.name, *self._scale_and_zero_point(found.meaning)]
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [value]))
        self.floats.add(value)

    def _as_integers(self, value: str) -> _Integers:
        if value not in self.integers:
            meaning = self.scales[value]
            found = _Integers(self.constants.new_name(f"{value}_uint8"), meaning)
            inputs = [value, *self._scale_and_zero_point(meaning)]
            node = helper.make_node("QuantizeLinear", inputs, [found.name])
            self.nodes.append(node)
            self.integers[value] = found
        return self.integers[value]

    def _convolve(self, node: onnx.NodeProto) -> None:
        given = self._as_integers(node.input[0])
        values = self.constants.array(node.input[1])
        has_bias = len(node.input) > 2 and node.input[2]
        bias = self.constants.array(node.input[2]) if has_bias else None
        alone = convolves_channels_alone(node, values.shape)
        try:
            integers, scales, units = quantize_filter(
                values, bias, given.meaning.scale, alone=alone
            )
        except StepFailed as error:
            raise StepFailed(f"weight {node.input[1]} {error}") from error
        result = self._result_of(node)
        inputs = [
            *(given.name, *self._scale_and_zero_point(given.meaning)),
            self.constants.add(f"{node.input[1]}_int8", integers),
            self.constants.add(f"{node.input[1]}_scale", scales),
            self.constants.add_once("filter_zero_point", np.zeros(len(scales), np.int8)),
            *self._scale_and_zero_point(result.meaning),
        ]
        if units is not None:
            inputs.append(self.constants.add(f"{node.input[2]}_int32", units))
        made = helper.make_node("QLinearConv", inputs, [result.name], name=node.name)
        made.attribute.extend(node.attribute)
        self._give(node, made, result)

    def _pool(self, node: onnx.NodeProto) -> bool:
        """Take the largest of integers, where a convolution reads that; their scale stays."""
        is_read = node.op_type == "MaxPool" and len(node.output) == 1
        if not is_read or node.output[0] not in self.wanted or node.input[0] not in self.integers:
            return False
        given = self.integers[node.input[0]]
        result = _Integers(self.constants.new_name(f"{node.output[0]}_uint8"), given.meaning)
        made = helper.make_node("MaxPool", [given.name], [result.name], name=node.name)
        made.attribute.extend(node.attribute)
        self.nodes.append(made)
        self._keep_integers(node.output[0], result)
        return True

    def _add(self, node: onnx.NodeProto) -> bool:
        """Add integers, where a convolution reads the sum."""
        is_sum = node.op_type == "Add" and all(name in self.integers for name in node.input)
        if not is_sum or self.result(node) not in self.wanted:
            return False
        result = self._result_of(node)
        inputs: list[str] = []
        for name in node.input:
            found = self.integers[name]
            inputs += [found.name, *self._scale_and_zero_point(found.meaning)]
        inputs += self._scale_and_zero_point(result.meaning)
        made = helper.make_node(
            "QLinearAdd", inputs, [result.name], name=node.name, domain=_CONTRIB
        )
        if all(opset.domain != _CONTRIB for opset in self.opsets):
            self.opsets.append(helper.make_opsetid(_CONTRIB, 1))
        self._give(node, made, result)
        return True

    def _result_of(self, node: onnx.NodeProto) -> _Integers:
        """Return the integers that stand for what a node gives, a function behind it included."""
        value, function = self.result(node), self.function_after(node)
        meaning = self.scales[value]
        if function is not None:
            ends = self.ends(function)
            assert ends is not None, "it is folded"
            # Nothing above 0 may have been seen, and then any scale was as good as another.
            meaning = ScaleAndZeroPoint(min(meaning.scale, ends[1] / _LARGEST), 0)
        return _Integers(self.constants.new_name(f"{value}_uint8"), meaning)

    def _give(self, node: onnx.NodeProto, made: onnx.NodeProto, result: _Integers) -> None:
        self.nodes.append(made)
        value = self.result(node)
        if value != node.output[0]:
            self.folded.add(value)
        self._keep_integers(value, result)

    def _keep_integers(self, value: str, result: _Integers) -> None:
        self.integers[value] = result
        if value in self.outside:
            self._as_float(value)

    def _scale_and_zero_point(self, meaning: ScaleAndZeroPoint) -> list[str]:
        return [
            self.constants.add_once("static_scale", np.array(meaning.scale, np.float32)),
            self.constants.add_once("static_zero_point", np.array(meaning.zero_point, np.uint8)),
        ]
