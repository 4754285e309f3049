"""Tango's score bound for the difference of two paired proportions, corrected for whole numbers.

On its own the bound certifies up to 6.8% of the models whose drop is exactly the allowed one (at
95% confidence, when few examples flip), and its lower twin refutes up to 9%: counts are whole
numbers, and their distribution is skewed. The two terms of the next order, half an example for
continuity and the Cornish-Fisher term for skewness, bring the rates to 5%. At 95% confidence they
move the upper bound outwards by a quarter to a half of an example, the lower one by a half to four
fifths; never inwards. `tools/simulate_certificate.py` prints the rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from compressor.proof import bound_without_flips, count_correction

Floats = NDArray[np.float64]


def tango_upper_bound(
    losses: float, wins: float, num_examples: int, *, confidence: float, corrected: bool = True
) -> float:
    """Return the one-sided upper bound of (losses - wins) / num_examples.

    The lower bound is the negative of the upper one with `losses` and `wins` exchanged. Without
    the correction this is the limit of Tango's interval of confidence 2 * confidence - 1.

    Ref: Tango 1998, Statistics in Medicine 17:891, eqs. 24-26; for the correction Cornish and
    Fisher 1938, Review of the International Statistical Institute 5:307.
    """
    z = float(stats.norm.ppf(confidence))
    if losses == 0 and wins == 0:
        return bound_without_flips(num_examples, z, corrected=corrected)
    if losses == num_examples:
        return 1.0

    def excess(drop: float) -> float:
        deviation, skewness = _restricted_moments(losses, wins, num_examples, drop)
        correction = count_correction(z, skewness) if corrected else 0.0
        return num_examples * drop - (losses - wins) - correction - z * deviation

    # At the observed drop itself the deviation may be zero, which is a root but not the bound.
    start = (losses - wins) / num_examples + 1e-12
    return float(optimize.brentq(excess, start, 1.0, xtol=1e-14, rtol=1e-14))


def is_certified(
    losses: Floats, wins: Floats, num_examples: int, *, max_drop: float, confidence: float
) -> NDArray[np.bool_]:
    """Return for each pair of counts whether `tango_upper_bound` is at most `max_drop`.

    The excess that is zero at the bound is positive beyond it, so it is looked at in one place and
    no root is sought.
    """
    z = float(stats.norm.ppf(confidence))
    margin = num_examples * max_drop - (losses - wins)
    linear = (2 * num_examples - losses + wins) * max_drop - (losses + wins)
    constant = -wins * max_drop * (1 - max_drop)
    # The steps of `_restricted_moments` for a drop of `max_drop`, which is not negative.
    root = np.sqrt(np.maximum(0.0, linear**2 - 8 * num_examples * constant))
    divisor = np.where(linear <= 0, 1.0, root + linear)
    rate = np.where(linear <= 0, (root - linear) / (4 * num_examples), -2 * constant / divisor)
    discordance = 2 * np.clip(rate, 0.0, (1 - max_drop) / 2) + max_drop
    deviation = np.sqrt(np.maximum(0.0, num_examples * (discordance - max_drop**2)))
    skewness = max_drop / np.where(discordance > 0, discordance, 1.0)
    correction = np.maximum(0.0, 0.5 - skewness * (z**2 - 1) / 6)
    return np.asarray((margin > 0) & (margin >= correction + z * deviation))


def noninferiority_p_value(losses: int, wins: int, num_examples: int, *, max_drop: float) -> float:
    """Return the chance of counts as good as these when the true drop is `max_drop`.

    It is 1 minus the largest confidence at which `tango_upper_bound` is at most `max_drop`.
    """
    deviation, skewness = _restricted_moments(losses, wins, num_examples, max_drop)
    margin = num_examples * max_drop - (losses - wins)
    if deviation == 0.0:  # no flip at all and max_drop 0: nothing speaks for it
        return 1.0
    limit = 38.0  # the normal tail beyond is zero in double precision

    def excess(z: float) -> float:
        return margin - count_correction(z, skewness) - z * deviation

    if excess(limit) >= 0:
        return 0.0
    if excess(-limit) <= 0:
        return 1.0
    return float(stats.norm.sf(optimize.brentq(excess, -limit, limit, xtol=1e-14)))


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted for their number, in the order given; none falls below its own.

    Raises `ValueError` when there is none or one is not in 0..1.
    Ref: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if given.ndim != 1 or given.size == 0 or not np.all((given >= 0) & (given <= 1)):
        raise ValueError(f"p_values: must be one or more numbers in 0..1, got {p_values!r}")
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(given.size, 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def _restricted_moments(
    losses: float, wins: float, num_examples: int, drop: float
) -> tuple[float, float]:
    """Return deviation and skewness of losses - wins where the true drop is `drop`.

    The rate of wins, q21, is its maximum likelihood estimate under that drop (Tango, eq. 25): the
    root of 2n q^2 + linear q + constant. Skewness is the third central moment over the variance,
    about drop / discordance: 1 when only losses occur, 0 when losses and wins balance.
    """
    linear = (2 * num_examples - losses + wins) * drop - (losses + wins)
    constant = -wins * drop * (1 - drop)
    root = math.sqrt(max(0.0, linear**2 - 8 * num_examples * constant))
    # Of the two forms of the root, the one that subtracts nothing from its equal.
    rate = (root - linear) / (4 * num_examples) if linear <= 0 else -2 * constant / (root + linear)
    rate = min(max(rate, 0.0, -drop), (1 - drop) / 2)
    discordance = 2 * rate + drop
    deviation = math.sqrt(max(0.0, num_examples * (discordance - drop**2)))
    return deviation, drop / discordance if discordance > 0 else 0.0
