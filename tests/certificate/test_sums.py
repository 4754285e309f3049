"""Bounds on scores that are taken from sums over units of different size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.certificate import certify_sums
from compressor.certificate.sums import typical_loss
from compressor.tasks import Metric

Floats = NDArray[np.float64]


def f1(sums: Floats) -> Floats:
    """Return F1 of (found and right, found, there) in the last axis; 0 where there is none."""
    right, found, there = np.moveaxis(sums, -1, 0)
    return np.divide(2 * right, found + there, out=np.zeros_like(right), where=found + there > 0)


def lost(units: Floats, total: Floats) -> Floats:
    return units * [0.0, 1.0, 1.0]


F1 = Metric("f1", "F1", "of entities", "sums", unit="document", units="documents",
            statistic=f1, lost=lost)  # fmt: skip


def documents(seed: int, count: int, missed: float) -> tuple[Floats, Floats]:
    """Return what documents add before and after; losses come by the document, not one by one."""
    random = np.random.default_rng(seed)
    there = random.poisson(1.5, count).astype(float)
    right = random.binomial(there.astype(int), 0.8).astype(float)
    before = np.stack([right, there, there], axis=1)
    gone = right * (random.random(count) < missed)
    return before, before - gone[:, None] * [1.0, 0.0, 0.0]


def test_the_score_is_that_of_the_sums_and_a_unit_counts_once():
    before, after = documents(0, 800, 0.02)
    proof = certify_sums(F1, before, after, max_drop=0.05, seed=0, resamples=999)
    expected = float(f1(before.sum(axis=0)) - f1(after.sum(axis=0)))
    assert proof.drop == pytest.approx(expected)
    assert proof.num_examples == 800
    assert proof.losses == int(np.sum((before != after).any(axis=1)))
    assert proof.wins == 0
    assert proof.verdict == "certified"
    assert proof.drop < proof.upper_bound < 0.05


def test_a_score_that_did_not_move_is_not_proven_to_a_hair():
    before, _ = documents(0, 400, 0.0)
    proof = certify_sums(F1, before, before, max_drop=0.05, seed=0)
    assert proof.drop == 0.0
    assert proof.upper_bound > 3 / 800  # that of a plain rate without a loss, halved by F1


def test_more_units_would_settle_what_is_open():
    before, after = documents(0, 100, 0.02)
    proof = certify_sums(F1, before, after, max_drop=0.04, seed=0)
    assert proof.verdict == "inconclusive"
    assert proof.needed_examples is not None
    more = certify_sums(F1, *documents(1, 2 * proof.needed_examples, 0.02), max_drop=0.04, seed=0)
    assert more.verdict == "certified"


def test_a_model_that_finds_nothing_is_refuted():
    before, _ = documents(0, 100, 0.0)
    proof = certify_sums(F1, before, lost(before, before.sum(axis=0)), max_drop=0.1, seed=0)
    assert proof.verdict == "refuted"


def test_losing_everything_of_a_perfect_model_is_a_drop_of_one():
    before = np.ones((50, 3))
    proof = certify_sums(F1, before, before * [0.0, 1.0, 1.0], max_drop=0.1, seed=0)
    assert (proof.verdict, proof.drop, proof.upper_bound) == ("refuted", 1.0, 1.0)


def test_where_nothing_could_be_lost_nothing_is_proven():
    before = np.zeros((200, 3))
    proof = certify_sums(F1, before, before, max_drop=0.1, seed=0)
    assert (proof.verdict, proof.needed_examples) == ("inconclusive", None)


def test_the_unit_that_is_added_is_one_that_a_lost_point_most_likely_belongs_to():
    small, large = [1.0, 1.0, 1.0], [9.0, 9.0, 9.0]
    unit, after = typical_loss(F1, np.array([small] * 90 + [large] * 10 + [[0.0, 0.0, 0.0]] * 99))
    assert unit.tolist() == large  # half of all points lie in documents of nine
    assert after.tolist() == [0.0, 9.0, 9.0]
    unit, _ = typical_loss(F1, np.array([small] * 900 + [large]))
    assert unit.tolist() == small


@pytest.mark.parametrize("missed", [0.01, 0.05])
def test_a_bound_is_too_low_no_more_often_than_promised(missed: float):
    """At a drop that is exactly the budget, a certificate in at most 1 of 20 draws is right."""
    large = documents(99, 400_000, missed)
    budget = float(f1(large[0].sum(axis=0)) - f1(large[1].sum(axis=0)))
    proofs = [
        certify_sums(F1, *documents(seed, 300, missed), max_drop=budget, seed=seed, resamples=499)
        for seed in range(200)
    ]
    certified = sum(proof.verdict == "certified" for proof in proofs)
    assert certified <= 18  # of 200 at 5%, 18 or fewer come in 99.7% of all draws


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.ones((4, 3)), np.ones((3, 3))),
        (np.ones((4, 3)), np.full((4, 3), np.nan)),
        (np.ones((0, 3)), np.ones((0, 3))),
    ],
)
def test_rows_that_do_not_pair_up_are_refused(before: Floats, after: Floats):
    with pytest.raises(ValueError, match="must be a row of finite numbers for each document"):
        certify_sums(F1, before, after, max_drop=0.1, seed=0)


def test_a_metric_of_sums_says_what_it_is_taken_from():
    with pytest.raises(ValueError, match="needs statistic and lost"):
        Metric("f1", "F1", "of entities", "sums")
