"""The bound agrees with published examples and with a search of the likelihood by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from compressor.certificate import holm, noninferiority_p_value, tango_upper_bound

# Losses, wins, examples, confidence of the two-sided interval, its limits and decimals printed.
PUBLISHED = [
    pytest.param(0, 1, 44, 0.90, -0.096, 0.037, 3, id="Tango 1998, table V"),
    pytest.param(9, 3, 32, 0.95, -0.027, 0.390, 3, id="Tango 1998, table VII"),
    pytest.param(16, 8, 86, 0.95, -0.020, 0.207, 3, id="Agresti and Min 2005"),
    pytest.param(1, 7, 21, 0.95, -0.517, -0.026, 3, id="Fagerland et al. 2014, Bentur data"),
    pytest.param(3, 1, 14, 0.95, -0.1670, 0.4327, 4, id="Tang et al. 2010"),
    pytest.param(6, 16, 161, 0.95, -0.1240, -0.0054, 4, id="R contingencytables, Cavo data"),
    pytest.param(28, 25, 618, 0.90, -0.0148, 0.0247, 4, id="R PropCIs scoreci.mp"),
]


@pytest.mark.parametrize(
    ("losses", "wins", "size", "confidence", "lower", "upper", "decimals"), PUBLISHED
)
def test_without_correction_the_bounds_are_the_published_ones(
    losses: int,
    wins: int,
    size: int,
    confidence: float,
    lower: float,
    upper: float,
    decimals: int,
):
    one_sided = (1 + confidence) / 2
    found_upper = tango_upper_bound(losses, wins, size, confidence=one_sided, corrected=False)
    found_lower = -tango_upper_bound(wins, losses, size, confidence=one_sided, corrected=False)
    assert round(found_lower, decimals) == pytest.approx(lower)
    assert round(found_upper, decimals) == pytest.approx(upper)


def likelihood_score(losses: int, wins: int, size: int, drop: float) -> tuple[float, float]:
    """Find the likeliest rate of wins under `drop` on a fine grid; deviation and skewness there."""
    low, high = max(0.0, -drop), (1 - drop) / 2
    for _ in range(12):  # narrow the grid around its best point
        rates = np.linspace(low, high, 2001)
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = (
                np.where(losses > 0, losses * np.log(rates + drop), 0.0)
                + np.where(wins > 0, wins * np.log(rates), 0.0)
                + np.where(
                    size > losses + wins, (size - losses - wins) * np.log(1 - 2 * rates - drop), 0.0
                )
            )
        best = int(np.nanargmax(likelihood))
        low, high = rates[max(0, best - 1)], rates[min(2000, best + 1)]
    rate = float(rates[best])
    mean, discordance = drop, 2 * rate + drop
    variance = discordance - mean**2
    return math.sqrt(size * variance), drop / discordance


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(
    ("losses", "wins", "size"),
    [(8, 1, 872), (1, 1, 10), (0, 5, 40), (5, 0, 40), (3, 2, 5), (6, 1, 7), (300, 260, 20_000)],
)
def test_at_the_bound_the_statistic_by_brute_force_is_the_normal_quantile(
    losses: int, wins: int, size: int, corrected: bool
):
    bound = tango_upper_bound(losses, wins, size, confidence=0.95, corrected=corrected)
    z = stats.norm.ppf(0.95)
    deviation, skewness = likelihood_score(losses, wins, size, bound)
    shift = max(0.0, 0.5 - skewness * (z**2 - 1) / 6) if corrected else 0.0
    statistic = (size * bound - (losses - wins) - shift) / deviation
    assert statistic == pytest.approx(z, abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 300, 20_000])
def test_without_flips_tangos_bound_is_wilsons_closed_form(size: int):
    z = stats.norm.ppf(0.95)
    bound = tango_upper_bound(0, 0, size, confidence=0.95, corrected=False)
    assert bound == pytest.approx(z**2 / (size + z**2))


def test_without_flips_the_corrected_bound_is_not_below_the_exact_rule_of_three():
    assert 3.0 / 1000 < tango_upper_bound(0, 0, 1000, confidence=0.95) < 3.2 / 1000


def test_without_flips_the_closed_form_meets_the_bound_of_nearly_none():
    closed = tango_upper_bound(0, 0, 500, confidence=0.95)
    assert tango_upper_bound(1e-9, 0, 500, confidence=0.95) == pytest.approx(closed, abs=1e-8)


@pytest.mark.parametrize(("losses", "wins"), [(0, 0), (1, 0), (0, 1)])
def test_one_example_proves_next_to_nothing(losses: int, wins: int):
    bound = tango_upper_bound(losses, wins, 1, confidence=0.95)
    assert 0.4 < bound <= 1.0


def test_when_every_example_is_lost_the_bound_is_one():
    assert tango_upper_bound(7, 0, 7, confidence=0.95) == 1.0


def test_when_every_example_is_won_the_bound_is_still_above_minus_one():
    # With only wins Tango's bound is Wilson's: n (1 + d) = z^2 (1 - d).
    z = stats.norm.ppf(0.95)
    bound = tango_upper_bound(0, 7, 7, confidence=0.95, corrected=False)
    assert bound == pytest.approx((z**2 - 7) / (z**2 + 7))


def every_table(size: int) -> list[tuple[int, int]]:
    return [(losses, wins) for losses in range(size + 1) for wins in range(size + 1 - losses)]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_correction_never_lowers_the_bound_and_moves_it_less_than_an_example(
    confidence: float,
):
    size = 25
    with_it = np.array(
        [tango_upper_bound(*table, size, confidence=confidence) for table in every_table(size)]
    )
    without = np.array(
        [
            tango_upper_bound(*table, size, confidence=confidence, corrected=False)
            for table in every_table(size)
        ]
    )
    assert np.all(with_it >= without - 1e-12)
    # A shift of the count moves the bound by a little more, as the deviation grows with the drop.
    assert np.all(with_it - without < 2.5 / size)


def test_more_losses_raise_the_bound_and_a_loss_turned_into_a_win_lowers_it():
    bounds = np.array([tango_upper_bound(k, 20, 900, confidence=0.95) for k in range(100)])
    exchanged = np.array([tango_upper_bound(20 - k, k, 900, confidence=0.95) for k in range(21)])
    assert np.all(np.diff(bounds) > 0)
    assert np.all(np.diff(exchanged) < 0)


@pytest.mark.parametrize(("size", "max_drop"), [(20, 0.1), (20, 0.3), (12, 0.0)])
def test_p_value_and_bound_agree_on_every_table(size: int, max_drop: float):
    by_bound = [
        tango_upper_bound(*table, size, confidence=0.95) <= max_drop for table in every_table(size)
    ]
    by_p_value = [
        noninferiority_p_value(*table, size, max_drop=max_drop) <= 0.05
        for table in every_table(size)
    ]
    assert by_p_value == by_bound


def test_the_p_value_at_the_bound_is_one_minus_its_confidence():
    bound = tango_upper_bound(9, 4, 700, confidence=0.975)
    assert noninferiority_p_value(9, 4, 700, max_drop=bound) == pytest.approx(0.025, rel=1e-6)


def test_the_p_value_of_tangos_example_is_larger_than_his_for_the_correction():
    # Tango 1998, section 6.1: z = 1.709, p = 0.044. Here the count is moved by 0.5 - 1.709^2 / 6
    # at most, so z is lower by at most 0.5 over the deviation of the 44 pairs, 1.99.
    assert 0.044 < noninferiority_p_value(1, 0, 44, max_drop=0.1) < stats.norm.sf(1.709 - 0.252)


def test_p_values_stay_in_range_at_the_extremes():
    assert noninferiority_p_value(0, 0, 50, max_drop=0.0) == 1.0
    assert noninferiority_p_value(50, 0, 50, max_drop=0.0) == pytest.approx(1.0)
    assert noninferiority_p_value(0, 5000, 5000, max_drop=0.2) == 0.0


def test_the_bound_of_a_million_examples_is_the_normal_one():
    losses, wins, size = 30_000, 29_000, 1_000_000
    drop = (losses - wins) / size
    wald = drop + stats.norm.ppf(0.95) * math.sqrt(((losses + wins) / size - drop**2) / size)
    assert tango_upper_bound(losses, wins, size, confidence=0.95) == pytest.approx(wald, abs=2e-6)


def test_holm_multiplies_by_the_number_of_hypotheses_left_and_keeps_the_order():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.06 stays at 0.06, and 0.04 * 1 is raised to it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_holm_of_one_changes_nothing_and_never_exceeds_one():
    assert holm([0.3]) == pytest.approx([0.3])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("wrong", [[], [0.1, 1.2], [float("nan")]])
def test_holm_says_what_is_wrong_with_its_p_values(wrong: list[float]):
    with pytest.raises(ValueError, match="p_values: must be one or more numbers"):
        holm(wrong)
