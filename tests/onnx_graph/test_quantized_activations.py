from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper

from compressor.onnx_graph.quantized_activations import (
    AFTER_GELU,
    AFTER_RELU,
    SYMMETRIC,
    TokenScale,
    token_scale_after,
)


@pytest.mark.parametrize(
    ("operator", "scale"),
    [
        ("Gelu", AFTER_GELU),
        ("BiasGelu", AFTER_GELU),
        ("FastGelu", AFTER_GELU),
        ("Relu", AFTER_RELU),
        ("LayerNormalization", SYMMETRIC),
        ("Tanh", SYMMETRIC),
    ],
)
def test_scale_fits_what_was_computed(operator: str, scale: TokenScale):
    assert token_scale_after(helper.make_node(operator, ["x"], ["y"])) == scale


def test_values_of_unknown_origin_may_have_any_sign():
    assert token_scale_after(None) == SYMMETRIC


@pytest.mark.parametrize(
    "gelu",
    [
        lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
        lambda x: x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ],
    ids=["exact", "tanh"],
)
def test_lowest_value_of_gelu_lies_on_its_scale(gelu):
    lowest = min(gelu(x) for x in np.linspace(-1, -0.5, 10_001))
    step = AFTER_GELU.smallest_range / AFTER_GELU.levels
    assert round(lowest / step) + AFTER_GELU.zero_point >= 0


@pytest.mark.parametrize("scale", [SYMMETRIC, AFTER_GELU, AFTER_RELU])
def test_largest_value_of_a_token_is_the_largest_integer(scale: TokenScale):
    assert scale.zero_point + scale.levels == 255
