from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.onnx_graph.quantizable_weights import QuantizableWeight, find_quantizable_weights
from compressor.passes.quantize.sensitivity import (
    Sensitivity,
    compare_outputs,
    most_sensitive,
    quantized_alone,
    weight_bytes,
)
from compressor.tasks import ClassLogits, load_task

TASK = load_task("text-classification")


def weight(name: str) -> QuantizableWeight:
    return QuantizableWeight(name, "matrix", (4, 4), (name,), None)


def test_the_worst_weights_are_those_with_the_largest_error_for_each_byte():
    found = [
        Sensitivity(weight("large"), logit_rms=0.4, flips=0, bytes_saved=4000),  # 1e-4 a byte
        Sensitivity(weight("small"), logit_rms=0.2, flips=0, bytes_saved=100),  # 2e-3
        Sensitivity(weight("harmless"), logit_rms=0.0, flips=0, bytes_saved=100),
        Sensitivity(weight("useless"), logit_rms=0.001, flips=0, bytes_saved=-4),
    ]
    assert most_sensitive(found, 4) == ("useless", "small", "large", "harmless")
    assert most_sensitive(found, 0) == ()


def test_the_change_of_logits_is_a_root_mean_square_and_a_count():
    before = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    after = np.array([[0.0, 1.0], [0.0, 2.0]], np.float32)
    rms, flips = compare_outputs(TASK, ClassLogits(before), ClassLogits(after))
    assert (rms, flips) == (pytest.approx(np.sqrt(2 / 4)), 1)


@pytest.mark.parametrize(
    "after", [np.zeros((1, 2), np.float32), np.full((2, 2), np.nan, np.float32)]
)
def test_logits_that_cannot_be_compared_are_refused(after: NDArray[np.float32]):
    with pytest.raises(ValueError, match="logits"):
        TASK.error(ClassLogits(np.zeros((2, 2), np.float32)), ClassLogits(after))


def test_one_weight_is_quantized_and_the_others_and_the_original_stay_float(
    make_graph: Callable[..., onnx.ModelProto], run_graph: Callable[..., NDArray[Any]]
):
    random = np.random.default_rng(0)
    first, second = (random.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("MatMul", ["h", "second"], ["y"]),
    ]
    model = make_graph(
        nodes, {"x": (TensorProto.FLOAT, [None, 8])}, {"first": first, "second": second}
    )
    original = model.SerializeToString()
    one, two = find_quantizable_weights(model)
    x = random.standard_normal((16, 8)).astype(np.float32)

    variants = [quantized_alone(model, each, activations="per_token") for each in (one, two)]

    assert model.SerializeToString() == original
    for variant, float_name in zip(variants, ("second", "first"), strict=True):
        floats = {item.name for item in variant.graph.initializer if len(item.dims) == 2}
        assert float_name in floats
        error = run_graph(variant, x=x) - x @ first @ second
        assert 0 < np.abs(error).max() < 1
    # 64 weights lose three bytes each; eight scales and a few constants are added.
    saved = weight_bytes(model) - weight_bytes(variants[0])
    assert 3 * 64 - 4 * 8 - 32 <= saved <= 3 * 64 - 4 * 8
