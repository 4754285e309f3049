from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.onnx_graph.affine import max_pair_sum, quantize_columns
from compressor.onnx_graph.saturation import (
    PairRisk,
    exact_matmul,
    pair_risk,
    saturating_matmul,
)


def vpmaddubsw(activations: NDArray[Any], weight: NDArray[Any]) -> list[list[int]]:
    """Return the product as the instruction defines it: one pair at a time, in plain integers."""
    rows, inner = activations.shape
    found = []
    for row, column in itertools.product(range(rows), range(weight.shape[1])):
        total = 0
        for first in range(0, inner, 2):
            pair = sum(
                int(activations[row, k]) * int(weight[k, column])
                for k in range(first, min(first + 2, inner))
            )
            total += max(-32768, min(32767, pair))
        found.append(total)
    return np.array(found).reshape(rows, -1).tolist()


def random_factors(
    shape: tuple[int, int, int], seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    rows, inner, columns = shape
    random = np.random.default_rng(seed)
    activations = random.integers(0, 256, (rows, inner)).astype(np.uint8)
    return activations, random.integers(-128, 128, (inner, columns)).astype(np.int8)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 4), (2, 7, 5), (4, 16, 3), (5, 33, 9)])
def test_saturating_products_are_those_of_the_instruction(shape: tuple[int, int, int]):
    activations, weight = random_factors(shape)
    assert saturating_matmul(activations, weight).tolist() == vpmaddubsw(activations, weight)


@pytest.mark.parametrize("value", [127, -128, -127, 65, 64, -65, -64])
def test_extreme_activations_saturate_where_the_instruction_does(value: int):
    activations = np.full((2, 5), 255, np.uint8)
    weight = np.full((5, 3), value, np.int8)
    assert saturating_matmul(activations, weight).tolist() == vpmaddubsw(activations, weight)


def test_random_products_do_saturate_so_that_the_comparison_means_something():
    activations, weight = random_factors((5, 33, 9))
    assert np.any(saturating_matmul(activations, weight) != exact_matmul(activations, weight))


def test_exact_products_are_those_of_wide_integers():
    activations, weight = random_factors((4, 700, 6))
    expected = activations.astype(np.int64) @ weight.astype(np.int64)
    assert exact_matmul(activations, weight).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("pair", "risky"),
    [
        ((64, 64), 0),  # 255 * 128 = 32640 fits
        ((64, 65), 1),  # 255 * 129 = 32895 does not
        ((-64, -64), 0),
        ((-64, -65), 1),
        ((127, -128), 0),  # opposite signs never add up
        ((-128, 0), 0),
    ],
)
def test_a_pair_is_at_risk_when_its_sum_passes_128(pair: tuple[int, int], risky: int):
    weight = np.array(pair, np.int8)[:, None]
    assert pair_risk(weight).risky_pairs == risky
    activations = np.full((1, 2), 255, np.uint8)
    saturates = vpmaddubsw(activations, weight) != exact_matmul(activations, weight).tolist()
    assert saturates == bool(risky)


def test_pairs_are_neighbours_along_the_inner_axis_and_not_across_pairs():
    weight = np.array([[1], [127], [127], [1]], np.int8)  # rows 1 and 2 are in different pairs
    assert pair_risk(weight) == PairRisk(2, 0, 0, 128)


def test_the_last_of_an_odd_number_of_rows_stands_alone():
    weight = np.array([[127, 1], [127, 1], [-128, 1]], np.int8)
    assert pair_risk(weight) == PairRisk(num_pairs=4, risky_pairs=1, risky_columns=1, worst_sum=254)


@pytest.mark.parametrize("inner", [2, 31, 64])
def test_this_packages_own_weights_never_saturate(inner: int):
    random = np.random.default_rng(inner)
    values, _ = quantize_columns(random.standard_normal((inner, 8)).astype(np.float32))
    risk = pair_risk(values)
    assert (risk.can_saturate, risk.worst_sum) == (False, max_pair_sum(values))
    activations = np.full((1, inner), 255, np.uint8)
    assert saturating_matmul(activations, values).tolist() == vpmaddubsw(activations, values)
