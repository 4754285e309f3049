"""Metrics of numbers equal those of other libraries, and ties are judged as a random order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import ndcg_score, r2_score

from compressor.tasks.ranking import (
    best_rows,
    concordance,
    differ_within,
    group_numbers,
    ndcg,
    pearson,
    pearson_lost,
    pearson_sums,
    r2,
    r2_lost,
    r2_sums,
    ranks_within,
    reciprocal_rank,
)

Floats = NDArray[np.float64]


def queries(seed: int, *, levels: int | None = None) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return scores, grades 0 to 3 and groups of 60 queries of 1 to 15 candidates, shuffled."""
    random = np.random.default_rng(seed)
    groups = random.permutation(np.repeat(np.arange(60), random.integers(1, 16, size=60)))
    grades = random.choice([0.0, 0.0, 1.0, 2.0, 3.0], size=len(groups))
    scores = random.normal(size=len(groups)) + grades / 2
    if levels is not None:  # many ties
        scores = np.round(scores * levels)
    return scores, grades, group_numbers(groups)


def rows_of(groups: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for number in range(groups.max() + 1):
        yield np.flatnonzero(groups == number)


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_is_that_of_scikit_learn_with_ties_and_without(k: int, levels: int | None):
    scores, grades, groups = queries(k, levels=levels)
    found = ndcg(scores, grades, groups, k=k)
    expected = [
        ndcg_score([grades[rows]], [scores[rows]], k=k)
        if len(rows) > 1  # which scikit-learn refuses
        else float(grades[rows][0] > 0)
        for rows in rows_of(groups)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def reciprocal_rank_of_all_orders(scores: Floats, relevant: NDArray[np.bool_], k: int) -> float:
    """Return the mean reciprocal rank over every order that sorts the scores."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            place = next((j for j, row in enumerate(order, 1) if relevant[row]), k + 1)
            found.append(1 / place if place <= k else 0.0)
    return float(np.mean(found))


@pytest.mark.parametrize("k", [2, 10])
def test_the_reciprocal_rank_is_the_mean_over_all_orders_of_ties(k: int):
    random = np.random.default_rng(k)
    sizes = random.integers(1, 7, size=40)
    groups = np.repeat(np.arange(40), sizes)
    scores = random.integers(0, 3, size=len(groups)).astype(np.float64)
    relevant = random.random(len(groups)) < 0.3
    expected = [
        reciprocal_rank_of_all_orders(scores[rows], relevant[rows], k) for rows in rows_of(groups)
    ]
    np.testing.assert_allclose(reciprocal_rank(scores, relevant, groups, k=k), expected, atol=1e-12)


def test_without_ties_the_reciprocal_rank_is_read_off_the_sorted_list():
    scores, grades, groups = queries(5)
    found = reciprocal_rank(scores, grades > 1, groups, k=10)
    expected = []
    for rows in rows_of(groups):
        hits = np.flatnonzero((grades[rows] > 1)[np.argsort(-scores[rows])][:10])
        expected.append(1 / (hits[0] + 1) if len(hits) else 0.0)
    np.testing.assert_allclose(found, expected)


def test_concordance_is_kendalls_tau_as_a_share():
    before, _, groups = queries(6)
    after = before + np.random.default_rng(7).normal(size=len(before))
    found = concordance(before, after, groups)
    expected = [
        (stats.kendalltau(before[rows], after[rows]).statistic + 1) / 2 if len(rows) > 1 else np.nan
        for rows in rows_of(groups)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_new_ties_are_half_right_and_old_ones_do_not_count():
    groups = np.zeros(4, dtype=np.int64)
    before = np.array([3.0, 2.0, 2.0, 1.0])
    # Five pairs are told apart; of them 3 > 2 (twice) becomes a tie, the other three stay.
    [found] = concordance(before, np.array([2.0, 2.0, 2.0, 1.0]), groups)
    assert found == (2 / 2 + 3) / 5
    assert concordance(before, np.zeros(4), groups).tolist() == [0.5]
    assert concordance(before, -before, groups).tolist() == [0.0]
    assert concordance(before, before, groups).tolist() == [1.0]


def test_a_long_list_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressor.tasks.ranking._PAIRS_AT_ONCE", 100)
    random = np.random.default_rng(8)
    before, after = random.normal(size=(2, 60))
    [found] = concordance(before, after, np.zeros(60, dtype=np.int64))
    assert found == pytest.approx((stats.kendalltau(before, after).statistic + 1) / 2)


def test_equal_scores_are_worth_a_random_order_whatever_the_order_of_rows():
    random = np.random.default_rng(9)
    groups = np.repeat(np.arange(30), 8)
    grades = np.tile([1.0, 0, 0, 0, 0, 0, 0, 0], 30)  # the right one first, as many files have it
    scores = np.zeros(len(groups))
    orders = [random.permutation(8) for _ in range(3000)]
    expected = np.mean([ndcg_score([grades[:8]], [order]) for order in orders])
    assert ndcg(scores, grades, groups, k=10).mean() == pytest.approx(expected, abs=0.01)
    harmonic = np.mean(1 / np.arange(1, 9))
    found = reciprocal_rank(scores, grades > 0, groups, k=10)
    assert found.mean() == pytest.approx(harmonic)
    again = random.permutation(len(groups))
    shuffled = ndcg(scores[again], grades[again], groups[again], k=10)
    np.testing.assert_allclose(shuffled, ndcg(scores, grades, groups, k=10))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_sums_give_pearson_and_r2_of_other_libraries(offset: float):
    random = np.random.default_rng(10)
    labels = random.normal(size=200) + offset
    values = labels + random.normal(size=200)
    units = np.arange(200)
    found = pearson(pearson_sums(values, labels, units).sum(axis=0))
    assert found == pytest.approx(stats.pearsonr(values, labels).statistic, abs=1e-9)
    found = r2(r2_sums(values, labels, units).sum(axis=0))
    assert found == pytest.approx(r2_score(labels, values), abs=1e-6)


def test_sums_of_a_part_of_the_units_are_the_score_of_that_part():
    random = np.random.default_rng(11)
    labels, units = random.normal(size=90), np.repeat(np.arange(30), 3)
    values = labels + random.normal(size=90)
    part, rows = np.arange(12), np.arange(36)
    counts = np.ones((2, 12))  # the same resample twice
    found = pearson(counts @ pearson_sums(values, labels, units)[part])
    expected = stats.pearsonr(values[rows], labels[rows]).statistic
    np.testing.assert_allclose(found, [expected, expected])
    found = r2(counts @ r2_sums(values, labels, units)[part])
    np.testing.assert_allclose(found, [r2_score(labels[rows], values[rows])] * 2)


def test_what_does_not_vary_has_no_correlation_and_explains_nothing():
    labels, units = np.arange(5.0), np.arange(5)
    same = np.full(5, 0.1)
    assert pearson(pearson_sums(same, labels, units).sum(axis=0)) == 0.0
    assert pearson(pearson_sums(labels, same, units).sum(axis=0)) == 0.0
    assert r2(r2_sums(np.full(5, 2.0), labels, units).sum(axis=0)) == 0.0
    assert r2(r2_sums(same, same, units).sum(axis=0)) == 1.0
    assert r2(r2_sums(labels, same, units).sum(axis=0)) == 0.0


def test_a_lost_unit_contradicts_its_labels_or_says_their_mean():
    random = np.random.default_rng(12)
    labels = random.normal(size=40)
    values, units = labels + random.normal(size=40), np.repeat(np.arange(20), 2)
    sums = pearson_sums(values, labels, units)
    everything = pearson_lost(sums, sums.sum(axis=0)).sum(axis=0)
    assert pearson(everything) == pytest.approx(-pearson(sums.sum(axis=0)))
    sums = r2_sums(values, labels, units)
    assert r2(r2_lost(sums, sums.sum(axis=0)).sum(axis=0)) == pytest.approx(0.0)


def test_groups_are_numbered_in_the_order_in_which_they_come():
    values = np.array(["q9", "q1", "q9", "q5"], dtype=object)
    assert group_numbers(values).tolist() == [0, 1, 0, 2]


def test_a_group_differs_where_it_holds_two_values():
    groups = np.array([0, 1, 0, 1, 2])
    assert differ_within(np.array([1.0, 0, 2.0, 0, 5.0]), groups).tolist() == [True, False, False]


def test_the_best_row_and_the_places_of_each_group():
    scores, _, groups = queries(13)
    best = best_rows(scores, groups)
    ranks = ranks_within(scores, groups)
    expected = np.concatenate([stats.rankdata(-scores[rows], "min") for rows in rows_of(groups)])
    assert [int(scores[rows].argmax()) for rows in rows_of(groups)] == [
        int(np.flatnonzero(rows == row)[0]) for rows, row in zip(rows_of(groups), best, strict=True)
    ]
    assert (
        np.concatenate([ranks[rows] + 1 for rows in rows_of(groups)]).tolist() == expected.tolist()
    )
