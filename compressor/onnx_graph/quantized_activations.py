"""Quantizes activations with one scale for each token, or one fixed beforehand.

One scale for a whole batch is set by its largest activation, and a few tokens are many times larger
than the rest: most use a small part of the 256 levels, and which part changes with their neighbours
in the batch. A scale of its own gives each token all 256 levels. Only the scale is found at run
time; the zero point is a constant, so equal tokens give equal integers in every batch.

A scale that calibration fixed costs no more than a `QuantizeLinear` and is independent of the batch
too; but the one scale has to fit every token there will ever be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Add = Callable[[str, NDArray[np.generic]], str]  # stores a constant and returns its name

_LARGEST = 255  # of unsigned 8 bits
# The least value of x * Phi(x) is -0.16997, of its tanh approximation -0.17004.
_GELU_LOWEST = 0.1701
_GELU_OPERATORS = frozenset(("BiasGelu", "FastGelu", "Gelu"))
# A token of zeros has no range. Whatever stands in will do: zero divided by it is zero.
_NO_RANGE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class TokenScale:
    """How a token maps to unsigned 8 bits: `value = range * (integer - zero_point) / levels`.

    `range` is the token's largest magnitude, and at least `smallest_range`. `is_signed` is whether
    values may be as low as minus that; otherwise only the largest value is looked for.
    """

    zero_point: int
    smallest_range: float
    is_signed: bool

    @property
    def levels(self) -> int:
        """Return the number of integers above the zero point."""
        return _LARGEST - self.zero_point


SYMMETRIC = TokenScale(zero_point=128, smallest_range=_NO_RANGE, is_signed=True)
# GELU is never below -0.17. A zero point of 32 leaves 223 levels above zero, where the symmetric
# zero point has 127, and holds -0.17 when the range is at least 0.17 * 223 / 32 = 1.19.
AFTER_GELU = TokenScale(zero_point=32, smallest_range=_GELU_LOWEST * 223 / 32, is_signed=False)
AFTER_RELU = TokenScale(zero_point=0, smallest_range=_NO_RANGE, is_signed=False)


@dataclass(frozen=True)
class ScaleAndZeroPoint:
    """How any value maps to unsigned 8 bits: `value = scale * (integer - zero_point)`, clipped."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class SignedScale:
    """How any value maps to signed 8 bits: `value = scale * integer`, clipped to -128..127."""

    scale: float


def token_scale_after(producer: onnx.NodeProto | None) -> TokenScale:
    """Return the finest scale for what `producer` computes; None stands for an input."""
    operator = producer.op_type if producer is not None else ""
    if operator in _GELU_OPERATORS:
        return AFTER_GELU
    return AFTER_RELU if operator == "Relu" else SYMMETRIC


@dataclass(frozen=True)
class Quantized:
    """Names of quantized activations: `values = ranges * scale * (integers - zero_point)`.

    With activations of shape `(..., K)`, `integers` has that shape and `ranges` has `(..., 1)`;
    `scale` and `zero_point` are constants. A scale fixed beforehand has no ranges.
    """

    integers: str
    scale: str
    zero_point: str
    ranges: str | None = None


def quantize_tokens(
    values: str, token_scale: TokenScale, opset: int, add: Add
) -> tuple[Quantized, list[onnx.NodeProto]]:
    """Return the quantized form of `values`, shape `(..., K)`, and the nodes that compute it.

    A token is a vector along the last axis. These are the fewest nodes that do it: what each costs
    at batch 1 outweighs what cleverer ones save at batch 32 (`QuantizeLinear` with a scale for each
    token writes no quotients but needs reshapes around it; `ReduceMin` writes no magnitudes but
    needs a negation).
    """
    name = f"{values}_tokens"
    ranges = f"{name}_range"
    tokens = Quantized(
        integers=f"{name}_uint8",
        scale=add("token_scale", np.array(1 / token_scale.levels, np.float32)),
        zero_point=add("token_zero_point", np.array(token_scale.zero_point, np.uint8)),
        ranges=ranges,
    )
    smallest = add("token_smallest_range", np.array(token_scale.smallest_range, np.float32))
    magnitudes, largest = (
        f"{name}_magnitude" if token_scale.is_signed else values,
        f"{name}_largest",
    )
    nodes = [helper.make_node("Abs", [values], [magnitudes])] if token_scale.is_signed else []
    nodes += [
        _reduce_max(magnitudes, largest, opset, add),
        helper.make_node("Max", [largest, smallest], [ranges]),
        helper.make_node("Div", [values, ranges], [f"{name}_relative"]),
        helper.make_node(
            "QuantizeLinear",
            [f"{name}_relative", tokens.scale, tokens.zero_point],
            [tokens.integers],
        ),
    ]
    return tokens, nodes


def quantize_static(
    values: str, static: ScaleAndZeroPoint, add: Add
) -> tuple[Quantized, list[onnx.NodeProto]]:
    """Return the quantized form of `values`, of any shape, and the node that computes it."""
    found = Quantized(
        integers=f"{values}_uint8",
        scale=add("static_scale", np.array(static.scale, np.float32)),
        zero_point=add("static_zero_point", np.array(static.zero_point, np.uint8)),
    )
    inputs = [values, found.scale, found.zero_point]
    return found, [helper.make_node("QuantizeLinear", inputs, [found.integers])]


def _reduce_max(values: str, largest: str, opset: int, add: Add) -> onnx.NodeProto:
    """Return the node for the largest value along the last axis, kept as an axis of length 1."""
    if opset < 18:  # the axes became an input with operator set 18
        return helper.make_node("ReduceMax", [values], [largest], axes=[-1], keepdims=1)
    last = add("token_axis", np.array([-1], np.int64))
    return helper.make_node("ReduceMax", [values, last], [largest], keepdims=1)
