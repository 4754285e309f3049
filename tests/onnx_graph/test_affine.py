from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.onnx_graph.affine import (
    PAIR_MAX,
    column_scales,
    max_pair_sum,
    pair_order,
    quantize_columns,
    quantize_rows,
    saturation_free_scales,
)

RANDOM = np.random.default_rng(0)


def saturating_matmul(
    activations: NDArray[np.uint8], weight: NDArray[np.int8]
) -> NDArray[np.int64]:
    """Compute as `vpmaddubsw` does: neighbouring products are added in 16 bits, saturating."""
    rows = len(weight) + len(weight) % 2
    a = np.zeros((len(activations), rows), np.int64)
    w = np.zeros((rows, weight.shape[1]), np.int64)
    a[:, : len(weight)], w[: len(weight)] = activations, weight
    pairs = a[:, 0::2, None] * w[None, 0::2] + a[:, 1::2, None] * w[None, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


def exact_matmul(activations: NDArray[np.uint8], weight: NDArray[np.int8]) -> NDArray[np.int64]:
    return activations.astype(np.int64) @ weight.astype(np.int64)


def full_range(weight: NDArray[np.float32]) -> NDArray[np.int8]:
    """Quantize each column to -127..127 without regard to pairs, as toolkits do."""
    return np.rint(weight / (np.abs(weight).max(axis=0) / 127)).astype(np.int8)


def normal(rows: int, columns: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=(rows, columns)).astype(np.float32)


WEIGHTS = {
    "normal": normal(64, 33),
    "odd number of rows": normal(63, 5),
    "one row": normal(1, 7),
    "all equal": np.full((8, 3), 0.7, np.float32),
    "all equal and negative": np.full((9, 3), -0.7, np.float32),
    "alternating signs": np.tile(np.array([[1.0], [-1.0]], np.float32), (4, 3)),
    "one large among small": np.where(np.arange(64) == 5, 100, 0.01)[:, None].astype(np.float32),
    "uniform and positive": RANDOM.uniform(0.9, 1, size=(128, 16)).astype(np.float32),
    "heavy tails": RANDOM.standard_cauchy(size=(256, 16)).astype(np.float32),
    "denormal": np.full((6, 2), 1e-44, np.float32),
    "close to the largest float": np.full((6, 2), 3e38, np.float32),
}


def test_scale_of_a_column_follows_its_largest_weight_when_pairs_have_opposite_signs():
    weight = np.array([[1.27], [-1.27], [0.3], [-0.2]], np.float32)
    assert saturation_free_scales(weight) == pytest.approx([0.01])


def test_scale_of_a_column_follows_its_largest_pair_of_equal_sign():
    # Rows 2 and 3 sum to -2.54; rows 1 and 2 are no pair, so their sum does not count.
    weight = np.array([[0.5], [-1.2], [-1.3], [-1.24]], np.float32)
    assert saturation_free_scales(weight) == pytest.approx([0.02])


def test_columns_have_their_own_scales():
    weight = np.array([[1.27, 0.127], [-0.003, -0.0003]], np.float32)
    values, scales = quantize_columns(weight)
    assert scales == pytest.approx([0.01, 0.001])
    assert values.tolist() == [[127, 127], [0, 0]]


def test_column_on_a_pair_safe_grid_keeps_its_step():
    integers = np.array([[90, 3], [-90, 64], [60, -2], [1, 64]])
    values, scales = quantize_columns((integers * np.float32([0.01, 0.02])).astype(np.float32))
    assert values.tolist() == integers.tolist()
    assert scales == pytest.approx([0.01, 0.02])


def test_column_on_a_grid_whose_pairs_could_overflow_is_rounded_again():
    integers = np.array([[90], [39], [7], [-126]])
    values, scales = quantize_columns(integers.astype(np.float32))
    assert scales == pytest.approx([129 / 127])
    assert max_pair_sum(values) <= 128


def test_random_column_is_not_taken_for_a_grid():
    weight = np.random.default_rng(5).normal(size=(64, 200)).astype(np.float32)
    np.testing.assert_array_equal(column_scales(weight), saturation_free_scales(weight))


def test_column_of_zeros_has_scale_one():
    values, scales = quantize_columns(np.zeros((3, 2), np.float32))
    assert scales.tolist() == [1.0, 1.0]
    assert not values.any()


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_pair_of_equal_sign_sums_above_128(name: str):
    values, _ = quantize_columns(WEIGHTS[name])
    assert max_pair_sum(values) <= PAIR_MAX


@pytest.mark.parametrize("name", WEIGHTS)
def test_round_trip_is_within_half_a_scale(name: str):
    weight = WEIGHTS[name].astype(np.float64)
    values, scales = quantize_columns(WEIGHTS[name])
    error = np.abs(values * scales.astype(np.float64) - weight)
    # The scale is rounded to float32, which moves 127 steps of it by a relative 1e-7.
    assert (error <= scales * 0.5 + np.abs(weight) * 1e-6).all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_products_are_exact_in_16_bits_with_the_largest_activations(name: str):
    values, _ = quantize_columns(WEIGHTS[name])
    activations = np.full((1, len(values)), 255, np.uint8)
    activations = np.concatenate(
        [activations, RANDOM.integers(0, 256, (20, len(values)), dtype=np.uint8)]
    )
    np.testing.assert_array_equal(
        saturating_matmul(activations, values), exact_matmul(activations, values)
    )


def test_full_range_weights_do_saturate_in_16_bits():
    # Shows that the simulation sees the problem which the scales above avoid.
    values = full_range(RANDOM.uniform(-1, 1, (384, 128)).astype(np.float32))
    activations = RANDOM.integers(0, 256, (128, 384), dtype=np.uint8)
    wrong = saturating_matmul(activations, values) != exact_matmul(activations, values)
    assert wrong.mean() > 0.05


def test_largest_pair_sum_ignores_opposite_signs_and_neighbours_across_pairs():
    values = np.array([[100], [-100], [90], [30], [-60], [0]], np.int8)
    assert max_pair_sum(values) == 120


def test_largest_pair_sum_leaves_out_the_last_of_an_odd_number_of_rows():
    assert max_pair_sum(np.array([[1], [2], [-127]], np.int8)) == 3


def test_rows_of_a_table_use_the_whole_range():
    table = np.array([[1.27, 1.27], [0.0, 0.0], [-0.254, 0.1]], np.float32)
    values, scales = quantize_rows(table)
    assert values.tolist() == [[127, 127], [0, 0], [-127, 50]]
    assert scales == pytest.approx([0.01, 1.0, 0.002])


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantize", [quantize_columns, quantize_rows])
def test_weights_that_are_not_finite_are_refused(quantize, broken: float):
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(np.array([[1.0, broken]], np.float32))


def test_order_parts_large_weights_of_equal_sign():
    # Rows 0 and 1 sum to twice the largest weight; beside a small one neither costs anything.
    weight = np.array([[1.27], [1.27], [0.0], [-0.1]], np.float32)
    order = pair_order(weight)
    assert order is not None
    assert saturation_free_scales(weight) == pytest.approx([0.02])
    assert saturation_free_scales(weight[order]) == pytest.approx([0.01])


@pytest.mark.parametrize(
    "weight",
    [
        np.array([[1.0], [-1.0], [0.5], [0.5]], np.float32),
        np.zeros((4, 2), np.float32),
        np.ones((1, 3), np.float32),
        np.ones((6, 3), np.float32),
    ],
    ids=["scales as fine as they get", "zeros", "one row", "all equal"],
)
def test_order_is_none_when_no_other_is_better(weight: NDArray[np.float32]):
    assert pair_order(weight) is None


@pytest.mark.parametrize("num_rows", [63, 64])
def test_order_is_a_permutation_that_recovers_most_of_what_pairs_cost(num_rows: int):
    weight = normal(num_rows, 8)
    order = pair_order(weight)
    assert order is not None
    assert sorted(order) == list(range(num_rows))
    least = np.abs(weight).max(axis=0) / 127  # without regard to pairs
    cost, cost_after = (
        (saturation_free_scales(rows) / least).mean() - 1 for rows in (weight, weight[order])
    )
    assert cost > 0.05
    assert cost_after < 0.1 * cost


def test_order_of_weights_that_are_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        pair_order(np.array([[1.0], [np.nan]], np.float32))
