from __future__ import annotations

import numpy as np
import pytest

from compressor.onnx_graph.affine import column_scales, max_pair_sum, quantize_columns
from compressor.onnx_graph.block_weights import quantize_blocks
from compressor.onnx_graph.gptq import (
    ActivationMoments,
    bias_correction,
    matmul_error,
    round_blocks,
    round_columns,
)

RANDOM = np.random.default_rng(5)
K, N = 33, 7  # an odd number of inputs: the last has no neighbour


def correlated(tokens: int = 400) -> np.ndarray:
    """Return inputs `(tokens, K)` of which a third of the directions hold nearly everything."""
    mixed = RANDOM.normal(size=(tokens, K // 3)) @ RANDOM.normal(size=(K // 3, K))
    return (mixed + 0.05 * RANDOM.normal(size=(tokens, K)) + 0.3).astype(np.float32)


def moments_of(*batches: np.ndarray) -> ActivationMoments:
    moments = ActivationMoments()
    for batch in batches:
        moments.update(batch)
    return moments


X = correlated()
MOMENTS = moments_of(X)
WEIGHT = RANDOM.normal(size=(K, N)).astype(np.float32)


def test_sums_do_not_depend_on_how_rows_are_batched():
    parts = moments_of(X[:7], X[7:].reshape(3, -1, K))
    assert parts.num_tokens == 400
    np.testing.assert_allclose(parts.gram, X.astype(float).T @ X, rtol=1e-4)
    np.testing.assert_allclose(parts.mean, X.mean(axis=0), rtol=1e-5)
    both = moments_of(X[:100]) + moments_of(X[100:])
    np.testing.assert_allclose(both.gram, parts.gram, rtol=1e-4)


def test_error_of_a_product_is_that_of_the_rows_themselves():
    other = WEIGHT + RANDOM.normal(size=WEIGHT.shape).astype(np.float32)
    expected = np.sqrt(np.mean(np.square(X @ WEIGHT - X @ other)))
    assert matmul_error(WEIGHT, other, MOMENTS) == pytest.approx(expected, rel=1e-4)


def test_int8_products_change_less_than_with_the_nearest_integers():
    values, scales = quantize_columns(WEIGHT)
    nearest = matmul_error(WEIGHT, values * scales, MOMENTS)
    assert matmul_error(WEIGHT, round_columns(WEIGHT, MOMENTS.gram), MOMENTS) < 0.6 * nearest


@pytest.mark.parametrize("block_size", [16, 32])
def test_int4_products_change_less_than_with_the_nearest_integers(block_size: int):
    plain = quantize_blocks(WEIGHT.T, bits=4, block_size=block_size, float16_scales=False)
    found = round_blocks(WEIGHT, MOMENTS.gram, bits=4, block_size=block_size)
    nearest = matmul_error(WEIGHT, plain.restored().T, MOMENTS)
    assert matmul_error(WEIGHT, found.restored().T, MOMENTS) < 0.6 * nearest
    np.testing.assert_array_equal(found.scales, plain.scales)
    assert found.values.min() >= -8
    assert found.values.max() <= 7


def test_integers_are_the_ones_of_the_method_written_out():
    # One row at a time, the inverse of what is left computed anew: equation 2 of the paper.
    rounded = round_columns(WEIGHT, MOMENTS.gram)
    scales = column_scales(WEIGHT)
    hessian = MOMENTS.gram + 0.01 * np.mean(np.diag(MOMENTS.gram)) * np.eye(K)
    left, free = WEIGHT.astype(np.float64), list(np.argsort(-np.diag(MOMENTS.gram)))
    chosen = np.zeros((K, N))
    while free:
        inverse = np.linalg.inv(hessian[np.ix_(free, free)])
        row = free[0]
        other = row ^ 1
        limit = np.full(N, 127.0)
        if other < K and other not in free:
            limit = np.minimum(limit, 128 - np.abs(chosen[other]))
        same = np.sign(chosen[other]) if other < K else np.zeros(N)
        raw = np.rint(left[row] / scales)
        raw = np.where(raw * same > 0, np.clip(raw, -limit, limit), np.clip(raw, -127, 127))
        chosen[row] = raw
        error = (left[row] - raw * scales) / inverse[0, 0]
        left[free] -= np.outer(inverse[:, 0], error)
        free = free[1:]
    np.testing.assert_array_equal(np.rint(rounded / scales), chosen)


def test_no_pair_of_rounded_weights_can_overflow_and_int8_stores_them_exactly():
    weight = np.abs(RANDOM.normal(size=(64, 32))).astype(np.float32) + 1  # pairs near the bound
    inputs = RANDOM.normal(size=(500, 4)) @ RANDOM.normal(size=(4, 64))
    rounded = round_columns(weight, inputs.T @ inputs)
    values, scales = quantize_columns(rounded)
    assert max_pair_sum(values) <= 128
    np.testing.assert_allclose(values * scales, rounded, rtol=1e-6)


def test_independent_inputs_leave_nothing_to_take_back():
    values, scales = quantize_columns(WEIGHT)
    rounded = round_columns(WEIGHT, np.diag(RANDOM.uniform(1, 2, size=K)))
    np.testing.assert_array_equal(np.rint(rounded / scales), values)


def test_weights_on_a_grid_stay_there():
    steps = RANDOM.uniform(0.1, 1, size=N).astype(np.float32)
    weight = RANDOM.integers(-60, 61, size=(K, N)).astype(np.float32) * steps
    np.testing.assert_allclose(round_columns(weight, MOMENTS.gram), weight, rtol=1e-5)


def test_inputs_that_are_always_zero_take_no_part():
    dead = X.copy()
    dead[:, 4] = 0
    rounded = round_columns(WEIGHT, moments_of(dead).gram)
    scales = column_scales(WEIGHT)
    assert np.abs(rounded[4] - WEIGHT[4]).max() <= 0.51 * scales.max()
    assert np.isfinite(round_columns(WEIGHT, np.zeros((K, K)))).all()


def test_a_column_of_zeros_stays_zero():
    weight = WEIGHT.copy()
    weight[:, 2] = 0
    assert not round_columns(weight, MOMENTS.gram)[:, 2].any()


def test_corrected_bias_keeps_the_mean_of_the_products():
    values, scales = quantize_columns(WEIGHT)
    rounded = (values * scales).astype(np.float32)
    corrected = X @ rounded + bias_correction(WEIGHT, rounded, MOMENTS)
    expected = (X @ WEIGHT).mean(axis=0)
    np.testing.assert_allclose(corrected.mean(axis=0), expected, atol=1e-4)
    assert np.abs((X @ rounded).mean(axis=0) - expected).max() > 1e-3


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_inputs_and_weights_that_are_not_finite_are_refused(broken: float):
    values, weight = X[:2].copy(), WEIGHT.copy()
    values[1, 1] = weight[1, 1] = broken
    with pytest.raises(ValueError, match="hold NaN or infinity on the calibration rows"):
        moments_of(values)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        round_columns(weight, MOMENTS.gram)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        round_blocks(weight, MOMENTS.gram, bits=4, block_size=16)
