"""How many examples settle a question whose bound is a bootstrap: about the fewest, at 80%.

Such a bound has no closed form, and at the sizes that people have the example that is added to it
is most of it: two normal quantiles would promise 80% and keep 20% to 90%. So the bound of a sample
of any size is computed from three moments of what single examples contribute, and from the weight
of the one that is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from compressor.certificate.bootstrap import Drop
from compressor.certificate.power import FINENESS, MOST_EXAMPLES, POWER

Floats = NDArray[np.float64]

_MOST_COPIES = 15  # of one example in a resample; more are as rare as 1 in 10**12
_ROUNDING = 1e-18  # a variance below it is summation order
_RESAMPLES = 9999  # of a bootstrap, as a certificate takes them


def examples_for_resampled(
    drop: Drop, extended: Drop, *, max_drop: float, confidence: float, more_than: int = 0
) -> int | None:
    """Return about the fewest examples with which four proofs in five of this drop succeed.

    `extended` is the drop with the example added. None where no number would do; of numbers up to
    `more_than` it is known that they do not.
    """
    contributed = _Contributed.of(drop, extended)
    if contributed.mean >= max_drop:
        return None

    def settles(size: int) -> bool:
        return contributed.unlucky(size).upper_bound(size, confidence) <= max_drop

    low, high = more_than, max(1, 2 * more_than)
    while not settles(high):
        low, high = high, 2 * high
        if high > MOST_EXAMPLES:
            return None
    while high - low > max(1, high // FINENESS):
        middle = (low + high) // 2
        low, high = (low, middle) if settles(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class _Contributed:
    """What single examples contribute to a drop: its moments, and what the added one does."""

    mean: float
    variance: float
    third: float  # central moment
    added: float

    @classmethod
    def of(cls, drop: Drop, extended: Drop) -> _Contributed:
        """Return the moments of a drop's examples, by the jackknife."""
        size = int(drop.counts.sum())
        mean, raised = (
            float(item.of(item.counts[None].astype(np.float64))[0]) for item in (drop, extended)
        )
        added = (size + 1) * (raised - mean)
        if size < 2:
            return cls(mean, 0.0, 0.0, added)
        weights, left_out = drop.counts / size, drop.without_one()
        contributed = (size - 1) * (weights @ left_out - left_out)
        variance, third = (float(weights @ contributed**power) for power in (2, 3))
        if variance < _ROUNDING:
            return cls(mean, 0.0, 0.0, added)
        return cls(mean, variance, third, added)

    def unlucky(self, size: int) -> _Contributed:
        """Return what a sample shows that loses more than all but one of five."""
        if self.variance == 0:
            return self
        skewness = self.third / self.variance**1.5 / math.sqrt(size)
        quantile = float(special.ndtri(POWER))
        quantile += (quantile**2 - 1) * skewness / 6
        more = quantile * math.sqrt(self.variance / size)
        # Where losses are skewed, a sample that lost more spreads more too.
        variance = self.variance + max(0.0, self.third) / self.variance * more
        return replace(self, mean=self.mean + more, variance=variance)

    def upper_bound(self, size: int, confidence: float) -> float:
        """Return the BCa bound of a sample with these moments, with the example added.

        A resample has 0, 1, 2, ... copies of the added one, by Poisson's law; the rest of it is
        drawn from a gamma distribution with three moments as given.
        """
        error = math.sqrt(self.variance / size) + 1e-6 * abs(self.added) / size
        skewness = self.third / (size * size * error**3)
        copies = np.arange(_MOST_COPIES)
        weights = np.exp(-1 - special.gammaln(copies + 1))

        def below(bound: float) -> float:
            places = (bound - self.mean - self.added * copies / size) / error
            return float(weights @ _gamma_cdf(places, skewness))

        variance, third = (
            error**2 + (self.added / size) ** 2,
            skewness * error**3 + (self.added / size) ** 3,
        )
        acceleration = third / variance**1.5 / 6
        bias = float(special.ndtri(below(self.mean + self.added / size)))
        shifted = bias + float(special.ndtri(confidence))
        share = float(special.ndtr(bias + shifted / (1 - acceleration * shifted)))
        # Resamples are a sample too, and what its quantile is decides between whole copies.
        noise = float(special.ndtri(POWER)) * math.sqrt(share * (1 - share) / _RESAMPLES)
        share = min(share + noise, 1 - 1e-6)
        low, high = (
            self.mean - 10 * error,
            self.mean + 10 * error + self.added * _MOST_COPIES / size,
        )
        return float(optimize.brentq(lambda bound: below(bound) - share, low, high, xtol=1e-9))


def _gamma_cdf(places: Floats, skewness: float) -> Floats:
    """Return the distribution function of mean 0, variance 1 and this skewness (Pearson III)."""
    if abs(skewness) < 1e-3:
        return np.asarray(special.ndtr(places))
    shape, scale = 4 / skewness**2, 2 / abs(skewness)
    if skewness > 0:
        return np.asarray(special.gammainc(shape, np.maximum(0.0, shape + scale * places)))
    return np.asarray(special.gammaincc(shape, np.maximum(0.0, shape - scale * places)))
