"""How many examples settle a question: the fewest that certify in four draws of five.

The examples are drawn anew from models that lose and win as often as the observed ones. Counts are
whole numbers and the bounds are corrected for that, so for accuracy and agreement the chance is
summed over the counts: the usual formula of two normal quantiles would give 52% to 76% and not 80%
at the sizes that people have. As a function of the size the chance has the teeth of a saw; the
number given is one from which on it hardly falls below 80% again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from compressor.certificate.score_bound import is_certified

Floats = NDArray[np.float64]

POWER = 0.8  # the chance that `needed_examples` settle the question
MOST_EXAMPLES = 10**12  # nobody has more, so no number is given
_DEVIATIONS = 4.5  # beyond which counts have no mass that matters
_MOST_COUNTS = 150  # that are summed; of more, as many at equal distances
FINENESS = 500  # a number is the fewest to one part in so many
_MANY_CHANGES = 20_000  # of which the two normal quantiles say the same as the counts


def chance_for_accuracy(
    num_examples: int, loss_rate: float, win_rate: float, *, max_drop: float, confidence: float
) -> float:
    """Return how often so many examples certify a model of these true rates by `certify_paired`."""
    changed = loss_rate + win_rate
    counts = _likely_counts(num_examples, changed)
    most = _most_losses(counts, num_examples, max_drop, confidence)
    weights = stats.binom.pmf(counts, num_examples, changed)
    share = loss_rate / changed if changed > 0 else 0.0
    return float(weights @ _binomial_cdf(most, counts, share) / weights.sum())


def chance_for_agreement(
    num_examples: int, rate: float, *, max_drop: float, confidence: float
) -> float:
    """Return how often so many certify, by `certify_agreement`, a model that changes this rate."""
    # The most changes with which Clopper and Pearson's bound is within the budget.
    low, high = -1, math.floor(num_examples * max_drop) + 1
    while high - low > 1:
        middle = (low + high) // 2
        bound = special.betaincinv(middle + 1, num_examples - middle, confidence)
        low, high = (middle, high) if bound <= max_drop else (low, middle)
    return float(_binomial_cdf(np.array([low]), np.array([num_examples]), rate)[0])


def examples_for_accuracy(
    loss_rate: float, win_rate: float, *, max_drop: float, confidence: float, more_than: int = 0
) -> int | None:
    """Return the fewest examples with which four proofs of accuracy in five succeed.

    None where no number would do. Of numbers up to `more_than` it is known that they do not.
    """

    def chance(size: int) -> float:
        return chance_for_accuracy(
            size, loss_rate, win_rate, max_drop=max_drop, confidence=confidence
        )

    changed, margin = loss_rate + win_rate, max_drop - (loss_rate - win_rate)
    return _fewest(chance, changed, margin, confidence, more_than)


def examples_for_agreement(
    rate: float, *, max_drop: float, confidence: float, more_than: int = 0
) -> int | None:
    """Return the same of agreement, of whose predictions `rate` change."""

    def chance(size: int) -> float:
        return chance_for_agreement(size, rate, max_drop=max_drop, confidence=confidence)

    return _fewest(chance, rate * (1 - rate), max_drop - rate, confidence, more_than)


def scaled_size(num_examples: int, distance: float, margin: float, confidence: float) -> int | None:
    """Return the size at which a bound that is `distance` away fits into `margin` by a chance.

    The distance shrinks as the root of the number or, where few examples are all of it, as the
    number itself; the slower of the two counts. None where there is no margin.
    """
    if margin <= 0:
        return None
    ratio = distance / margin * (1 + float(special.ndtri(POWER) / special.ndtri(confidence)))
    size = num_examples * max(ratio, ratio**2)
    return max(1, math.ceil(size)) if size < MOST_EXAMPLES else None


def _fewest(
    chance: Callable[[int], float],
    variance: float,
    margin: float,
    confidence: float,
    more_than: int,
) -> int | None:
    """Return the fewest examples above `more_than` with a chance of `POWER`.

    The search begins where two normal quantiles meet, given the variance of what one example
    contributes and the margin that the expected drop leaves.
    """
    if margin <= 0:
        return None
    quantiles = float(stats.norm.ppf(confidence) + stats.norm.ppf(POWER))
    begin = quantiles**2 * variance / margin**2
    if begin >= MOST_EXAMPLES:
        return None
    if begin * variance > _MANY_CHANGES:
        return max(math.ceil(begin), more_than + 1)
    low, high = more_than, max(more_than + 1, math.ceil(begin))
    step = 1.25 if begin > 0 else 2.0  # without a change nothing is known of the size
    while chance(high) < POWER:
        low, high = high, math.ceil(step * high)
        if high > MOST_EXAMPLES:
            return None
    while (lower := math.floor(high / step)) > low and chance(lower) >= POWER:
        high = lower
    low = max(low, lower)
    while high - low > max(1, high // FINENESS):
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= POWER else (middle, high)
    return high


def _likely_counts(size: int, rate: float) -> Floats:
    """Return the numbers of changes that so many examples show, those with any mass."""
    spread = _DEVIATIONS * (math.sqrt(size * rate) + 1) if rate > 0 else 0.0
    first, last = max(0, int(size * rate - spread)), min(size, int(size * rate + spread))
    return np.unique(np.linspace(first, last, min(last - first + 1, _MOST_COUNTS)).round())


def _most_losses(changes: Floats, size: int, max_drop: float, confidence: float) -> Floats:
    """Return the most losses among so many changes that are certified, -1 for none."""
    low, high = np.full_like(changes, -1.0), changes + 1
    while np.any(high - low > 1):
        losses = np.floor((low + high) / 2)
        good = is_certified(
            losses, changes - losses, size, max_drop=max_drop, confidence=confidence
        )
        low, high = np.where(good, losses, low), np.where(good, high, losses)
    return low


def _binomial_cdf(most: Floats, counts: Floats, rate: float) -> Floats:
    """Return the chance of at most `most` among `counts`, 0 for -1."""
    whole = most >= counts
    inner = np.where(whole | (most < 0), 0.0, most)
    found = special.betainc(np.maximum(counts - inner, 1e-9), inner + 1, 1 - rate)
    return np.asarray(np.where(whole, 1.0, np.where(most < 0, 0.0, found)))
