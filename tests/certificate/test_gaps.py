"""Bounds of a difference of two drops: Newcombe's where each has Wilson's, and they cover."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from compressor.certificate import certify_paired
from compressor.certificate.gaps import Bounded, difference_bounds, largest_gap


def wilson(count: int, total: int, confidence: float) -> Bounded:
    ends = stats.binomtest(count, total).proportion_ci(2 * confidence - 1, method="wilson")
    return Bounded(count / total, float(ends.low), float(ends.high))


def test_with_wilsons_bounds_it_is_newcombes_interval():
    # Newcombe 1998, Table II (a), method 10: 56/70 - 48/80 has 0.0524 to 0.3339.
    found = difference_bounds(wilson(56, 70, 0.975), wilson(48, 80, 0.975))
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_other_way_round_the_bounds_change_their_signs():
    first, second = wilson(3, 20, 0.95), wilson(9, 30, 0.95)
    low, high = difference_bounds(first, second)
    assert difference_bounds(second, first) == pytest.approx((-high, -low))


def test_a_single_group_has_no_gap():
    with pytest.raises(ValueError, match="two groups or more, got 1"):
        largest_gap({"a": lambda level: Bounded(0, 0, 0)}, confidence=0.95)


def test_the_gap_is_between_the_furthest_groups():
    fixed = {"a": 0.02, "b": -0.01, "c": 0.05}
    groups = {
        name: functools.partial(lambda drop, level: Bounded(drop, drop - 0.01, drop + 0.01), drop)
        for name, drop in fixed.items()
    }
    found = largest_gap(groups, confidence=0.95)
    assert found.gap == pytest.approx(0.06)
    assert (found.lower, found.upper) == pytest.approx((0.06 - 0.01 * 2**0.5, 0.06 + 0.01 * 2**0.5))


@pytest.mark.parametrize("losses", [(0.02, 0.02, 0.02), (0.01, 0.06, 0.03)])
def test_bounds_hold_as_often_as_they_say(losses: tuple[float, ...]):
    random = np.random.default_rng(5)
    true = max(losses) - min(losses)
    over = under = 0
    draws = 200
    for _ in range(draws):
        groups = {}
        for number, rate in enumerate(losses):
            was = np.ones(200, dtype=bool)
            now = random.random(200) >= rate

            def bounds(level: float, was: np.ndarray = was, now: np.ndarray = now) -> Bounded:
                proof = certify_paired(was, now, max_drop=0.5, confidence=level)
                return Bounded(proof.drop, proof.lower_bound, proof.upper_bound)

            groups[str(number)] = bounds
        found = largest_gap(groups, confidence=0.9)
        over += found.upper < true
        under += found.lower > true
    # A tenth may miss; 200 draws of a tenth are below 33 with a chance of 99.7%.
    assert over <= 33
    assert under <= 33
