"""The chance of a proof at the numbers told, by drawing and not by the sums that found them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compressor.certificate import (
    certify_agreement,
    certify_mean,
    certify_metric,
    certify_paired,
    chance_for_accuracy,
    chance_for_agreement,
    examples_for_accuracy,
    examples_for_agreement,
    f1_macro,
    tango_upper_bound,
)
from compressor.certificate.power import scaled_size
from compressor.certificate.score_bound import is_certified

DRAWS = 2000  # the standard error of a share of 0.8 is 0.009


def drawn_chance_for_accuracy(
    size: int, rates: tuple[float, float], max_drop: float, confidence: float
) -> float:
    """Return how often drawn models of these rates of losses and wins are certified."""
    random = np.random.default_rng(0)
    counts = random.multinomial(size, [*rates, 1 - sum(rates)], size=DRAWS)[:, :2]
    pairs, times = np.unique(counts, axis=0, return_counts=True)
    bounds = [
        tango_upper_bound(losses, wins, size, confidence=confidence)
        for losses, wins in pairs.tolist()
    ]
    return float(times @ (np.array(bounds) <= max_drop)) / DRAWS


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("rates", "max_drop"),
    [
        ((0.005, 0.005), 0.01),
        ((0.005, 0.005), 0.02),
        ((0.01, 0.01), 0.02),
        ((0.02, 0.015), 0.02),
        ((0.01, 0.0), 0.03),
        ((0.025, 0.03), 0.01),
    ],
)
def test_the_number_told_proves_accuracy_four_times_in_five(
    rates: tuple[float, float], max_drop: float, confidence: float
):
    size = examples_for_accuracy(*rates, max_drop=max_drop, confidence=confidence)
    assert size is not None
    drawn = drawn_chance_for_accuracy(size, rates, max_drop, confidence)
    assert 0.77 < drawn < 0.9
    exact = chance_for_accuracy(size, *rates, max_drop=max_drop, confidence=confidence)
    assert exact == pytest.approx(drawn, abs=0.03)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("rate", "max_drop"), [(0.01, 0.02), (0.01, 0.05), (0.02, 0.03), (0.05, 0.07)]
)
def test_the_number_told_proves_agreement_four_times_in_five(
    rate: float, max_drop: float, confidence: float
):
    size = examples_for_agreement(rate, max_drop=max_drop, confidence=confidence)
    assert size is not None
    changes = np.random.default_rng(0).binomial(size, rate, size=DRAWS)
    drawn = np.mean(stats.beta.ppf(confidence, changes + 1, size - changes) <= max_drop)
    assert 0.77 < drawn < 0.92


def test_the_chance_for_agreement_is_summed_by_hand():
    # 93 rows are enough for a bound of 5% with at most 1 change, 2 ask for 124: then
    # P(at most 1 of 93) at 1% is 0.99^93 + 93 * 0.01 * 0.99^92.
    expected = 0.99**93 + 93 * 0.01 * 0.99**92
    found = chance_for_agreement(93, 0.01, max_drop=0.05, confidence=0.95)
    assert found == pytest.approx(expected)


def test_the_chance_without_a_change_is_nothing_or_all():
    settings = {"max_drop": 0.01, "confidence": 0.95}
    assert [chance_for_agreement(size, 0.0, **settings) for size in (298, 299)] == [0.0, 1.0]
    fewest = examples_for_accuracy(0.0, 0.0, **settings)
    assert fewest is not None
    assert [chance_for_accuracy(size, 0.0, 0.0, **settings) for size in (fewest - 1, fewest)] == [
        0.0,
        1.0,
    ]


@pytest.mark.parametrize("changed", [0.02, 0.021])
def test_a_drop_of_the_whole_budget_is_proven_by_no_number(changed: float):
    assert examples_for_agreement(changed, max_drop=0.02, confidence=0.95) is None
    assert examples_for_accuracy(changed, 0.0, max_drop=0.02, confidence=0.95) is None


def test_very_many_examples_are_those_of_two_normal_quantiles():
    found = examples_for_accuracy(0.0249, 0.0151, max_drop=0.01, confidence=0.95)
    wanted = (stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) ** 2 * 0.04 / 0.0002**2
    assert found == pytest.approx(wanted, rel=1e-3)
    assert examples_for_accuracy(0.03, 0.02 + 1e-9, max_drop=0.01, confidence=0.95) is None


def test_open_certificates_ask_for_the_number_at_their_own_rates():
    before, after = np.ones(200, dtype=bool), np.ones(200, dtype=bool)
    after[:3], before[3:5] = False, False
    found = certify_paired(before, after, max_drop=0.02)
    assert found.needed_examples == examples_for_accuracy(
        3 / 200, 2 / 200, max_drop=0.02, confidence=0.95, more_than=200
    )
    flips = np.arange(100) < 1
    asked = certify_agreement(flips, max_drop=0.02).needed_examples
    assert asked == examples_for_agreement(0.01, max_drop=0.02, confidence=0.95, more_than=100)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("max_drop", [0.0, 0.005, 0.02, 0.1])
@pytest.mark.parametrize("changes", [0, 1, 5, 18])
def test_a_budget_holds_where_the_bound_is_within_it(
    changes: int, max_drop: float, confidence: float
):
    losses = np.arange(changes + 1.0)
    found = is_certified(losses, changes - losses, 448, max_drop=max_drop, confidence=confidence)
    bounds = [
        tango_upper_bound(lost, changes - lost, 448, confidence=confidence)
        for lost in losses.tolist()
    ]
    assert found.tolist() == [bound <= max_drop for bound in bounds]


def test_a_size_is_scaled_by_the_slower_of_two_laws():
    # A bound whose whole distance fits the margin succeeds half of the time; 80% take
    # 1 + 0.842 / 1.645 = 1.512 of the distance, squared where it shrinks as the root.
    ratio = 1 + stats.norm.ppf(0.8) / stats.norm.ppf(0.95)
    assert scaled_size(1000, 0.01, 0.01, 0.95) == np.ceil(1000 * ratio**2)
    assert scaled_size(1000, 0.001, 0.01, 0.95) == np.ceil(1000 * ratio / 10)
    assert scaled_size(1000, 0.01, 0.0, 0.95) is None


def lost_by_texts(random: np.random.Generator, size: int) -> np.ndarray:
    """Return numbers that fell: tenths of neighbours, most of them not at all."""
    return random.choice([0.0, 0.1, 0.2, 0.5], p=[0.85, 0.1, 0.04, 0.01], size=size)


def test_the_number_told_proves_a_mean_four_times_in_five():
    random = np.random.default_rng(0)
    lost = np.repeat([0.0, 0.1, 0.2, 0.5], [85, 10, 4, 1])  # the shares that are drawn below
    size = certify_mean("rank_agreement", np.ones(100), 1 - lost, max_drop=0.035, seed=0)
    assert size.needed_examples is not None
    proven = [
        certify_mean(
            "rank_agreement",
            np.ones(size.needed_examples),
            1 - lost_by_texts(random, size.needed_examples),
            max_drop=0.035,
            seed=seed,
            resamples=999,
        ).verdict
        for seed in range(200)
    ]
    # Three standard errors of 200 draws are 8.5%.
    assert 0.7 < proven.count("certified") / 200 < 0.92


def test_the_number_told_proves_a_score_of_classes_four_times_in_five():
    random = np.random.default_rng(1)
    labels = np.arange(200) % 2
    before = np.where(np.arange(200) < 30, 1 - labels, labels)
    after = before.copy()
    after[:2], after[-3:] = labels[:2], 1 - labels[-3:]  # wins 1%, loses 1.5%
    settings = {"max_drop": 0.02, "resamples": 999}
    first = certify_metric(f1_macro, before, after, labels, seed=0, **settings)
    assert first.needed_examples is not None
    drawn = random.integers(200, size=(200, first.needed_examples))
    proven = [
        certify_metric(
            f1_macro, before[rows], after[rows], labels[rows], seed=0, **settings
        ).verdict
        for rows in drawn
    ]
    assert 0.7 < proven.count("certified") / 200 < 0.92
