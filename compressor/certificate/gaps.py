"""Bounds on how much further one group fell than another, from the bounds of each.

Groups share no example, so their drops are independent. The bound of a difference of two drops is
recovered from how far each drop lies from its own bounds, whatever those are: Tango's for hits, a
bootstrap's for means (MOVER). Newcombe's interval for two proportions is the same step with
Wilson's bounds.

Among several groups, the largest difference is at most what the worst pair is proven to stay below:
whichever pair is truly the worst, its own bound holds with the stated confidence, so that no
correction is needed (Berger 1982). That it is at least so large is another matter: with many pairs
one looks bad by chance, and the lower bound is taken with Bonferroni's correction over all.

Ref: Zou & Donner 2008, Statistics in Medicine 27:1693, eqs. 6-7; Newcombe 1998, Statistics in
Medicine 17:873; Berger 1982, Technometrics 24:295.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations


@dataclass(frozen=True)
class Bounded:
    """A drop, and its one-sided bounds with one confidence."""

    drop: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Gap:
    """The largest drop less the smallest, and its one-sided bounds."""

    gap: float
    lower: float
    upper: float


def difference_bounds(first: Bounded, second: Bounded) -> tuple[float, float]:
    """Return the one-sided bounds of `first` less `second`, of the confidence of theirs."""
    difference = first.drop - second.drop
    below = math.hypot(first.drop - first.lower, second.upper - second.drop)
    above = math.hypot(first.upper - first.drop, second.drop - second.lower)
    return difference - below, difference + above


def largest_gap(groups: Mapping[str, Callable[[float], Bounded]], *, confidence: float) -> Gap:
    """Return the gap between the groups of a column; each gives its bounds for a confidence.

    Raises `ValueError` for fewer than two groups.
    """
    if len(groups) < 2:
        raise ValueError(f"a gap is between two groups or more, got {len(groups)}")
    pairs = list(permutations(groups, 2))
    usual = {name: bounds(confidence) for name, bounds in groups.items()}
    level = 1 - (1 - confidence) / len(pairs)
    strict = {name: bounds(level) for name, bounds in groups.items()}
    drops = [item.drop for item in usual.values()]
    return Gap(
        max(drops) - min(drops),
        max(0.0, *(difference_bounds(strict[a], strict[b])[0] for a, b in pairs)),
        max(difference_bounds(usual[a], usual[b])[1] for a, b in pairs),
    )
