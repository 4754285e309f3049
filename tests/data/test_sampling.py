from __future__ import annotations

import numpy as np
import pytest

from compressor.data.sampling import (
    drawn_by_chance,
    drawn_by_length,
    evenly_spread,
    sample_rows,
    stratified_counts,
)


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([60, 30, 10], 10, [6, 3, 1]),
        ([50, 50], 5, [3, 2]),
        ([98, 2], 10, [9, 1]),
        ([1, 99], 10, [0, 10]),
        ([2, 2, 2, 94], 4, [1, 1, 1, 1]),
        ([3, 3], 6, [3, 3]),
        ([10], 4, [4]),
    ],
)
def test_rows_are_shared_by_largest_remainder_with_one_for_small_classes(
    sizes: list[int], total: int, expected: list[int]
) -> None:
    assert stratified_counts(sizes, total) == expected


def test_a_sample_has_the_proportions_of_the_labels() -> None:
    labels = np.array([0] * 75 + [1] * 25)
    rows = sample_rows(np.arange(100), labels, 20, seed=0, purpose="test")
    assert np.bincount(labels[rows]).tolist() == [15, 5]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_a_sample_depends_on_seed_and_purpose_alone() -> None:
    labels = np.arange(100) % 2
    first = sample_rows(np.arange(100), labels, 20, seed=0, purpose="a").tolist()
    assert sample_rows(np.arange(100), labels, 20, seed=0, purpose="a").tolist() == first
    assert sample_rows(np.arange(100), labels, 20, seed=1, purpose="a").tolist() != first
    assert sample_rows(np.arange(100), labels, 20, seed=0, purpose="b").tolist() != first


def test_a_sample_is_the_same_in_every_release() -> None:
    # Recorded once: a run's report lets others take the same rows again, so this may not change.
    rows = sample_rows(np.arange(20), None, 5, seed=0, purpose="train.search")
    assert rows.tolist() == [0, 4, 6, 10, 18]


def test_rows_that_are_not_consecutive_are_sampled_by_value() -> None:
    rows = sample_rows(np.array([3, 5, 9]), np.array([0, 0, 1]), 3, seed=0, purpose="x")
    assert rows.tolist() == [3, 5, 9]


def test_positions_are_spread_evenly_from_the_first_to_the_last():
    assert evenly_spread(9, 3).tolist() == [0, 4, 8]
    assert evenly_spread(3, 9).tolist() == [0, 1, 2]


def test_positions_drawn_by_chance_are_the_first_of_one_order():
    assert drawn_by_chance(10, 4, seed=1).tolist() == drawn_by_chance(10, 10, seed=1).tolist()[:4]
    assert sorted(drawn_by_chance(10, 20, seed=1).tolist()) == list(range(10))


def test_a_long_text_is_drawn_as_often_as_its_length_says():
    examples = ["a" * 9, "b"]
    firsts = [
        int(drawn_by_length(examples, 1, np.random.default_rng(seed))[0]) for seed in range(400)
    ]
    assert firsts.count(1) / len(firsts) == pytest.approx(0.1, abs=0.05)
