"""Latency of sub-layers in five rounded figures, so that a choice does not follow noise.

Times of single sizes wander by some percent from one measurement to the next, whatever the clock,
and a search over thousands of combinations follows each of them. What decides is coarser: what a
sub-layer takes before its first unit, what heads take beside neurons, and how much of both is left
in a last layer of which one token is read. Those five are fitted to all points at once and rounded
to steps several times as wide as they wander.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import log

import numpy as np
from scipy.optimize import nnls

from compressor.verify.timing import standard_error

Points = Mapping[int, float]  # what a sub-layer takes by its number of units

# Steps that the figures are rounded to. Three are factors around what is usual, so that what is
# usual lies in the middle of a step.
_EMPTY_FACTOR = 2.0
_FIXED_FACTOR, _FIXED_USUALLY = 2.0, 0.1  # of a whole layer
_HEADS_FACTOR = 1.5
_LAST_HEADS_STEP, _LAST_HEADS_USUALLY = 0.25, 2  # of what they take in the other layers
# Neurons are read for one token, whose weights take as long to fetch as some tokens to compute.
_LAST_NEURONS_FACTOR, _LAST_NEURONS_TOKENS = 2.0, 6.5
_SHARE_TO_MEASURE = 0.15  # of a layer; units that take less are taken to be as usual
_MOST_HEADS, _MOST_OF_OTHERS = 4.0, 1.5  # steps, and a share
_LEAST_STEPS, _MOST_STEPS = -2.0, 2.0  # of what is left without units, and before they count
# Standard errors that a figure has to be known to, in steps, and how many fit to an edge.
_SMALLEST_NEEDED, _LARGEST_NEEDED, _ERRORS_TO_EDGE = 0.02, 0.1, 3


@dataclass(frozen=True)
class LayerPoints:
    """What sub-layers of a layer take, in any unit of time, by numbers of heads and of neurons."""

    attention: Points
    feed_forward: Points


@dataclass(frozen=True)
class LayerWork:
    """What is usual: the work of a head and of a neuron for each token, in one unit.

    `empty` is what is left of a sub-layer without units, as a share of what one with units takes
    before they count.
    """

    head: float
    neuron: float
    empty: float
    num_tokens: int


@dataclass(frozen=True)
class LatencyProfile:
    """The figures in steps, unrounded as they were measured or whole numbers.

    `fixed` is what a sub-layer with units takes before they count, as a share of a whole layer, and
    `empty` what is left of one without units, as a share of that; both in factors around what is
    usual, as is `heads`, what the work of heads takes beside that of neurons. `last_heads` and
    `last_neurons` are what units take in the last layer beside the others. None where there are no
    such units, or the last layer is like the others.
    """

    empty: float
    fixed: float
    heads: float | None
    last_heads: float | None
    last_neurons: float | None

    def rounded(self) -> LatencyProfile:
        """Return the figures in whole steps."""
        empty, fixed, *others = self.figures
        assert empty is not None
        assert fixed is not None
        rounded = (None if value is None else round(value) for value in others)
        return LatencyProfile(round(empty), round(fixed), *rounded)

    @property
    def figures(self) -> tuple[float | None, ...]:
        """Return all figures, in order."""
        return self.empty, self.fixed, self.heads, self.last_heads, self.last_neurons


def fit_profile(others: LayerPoints, last: LayerPoints | None, work: LayerWork) -> LatencyProfile:
    """Fit the figures to points: each mapping begins with 0 units and ends with all of them.

    `last` is None where the last layer is like the others.
    """
    heads, neurons = max(others.attention), max(others.feed_forward)
    rows, times = [], []
    for points, column in ((others.attention, 1), (others.feed_forward, 2)):
        for count, value in points.items():
            if count > 0:
                row = [1.0, 0.0, 0.0]
                row[column] = count / max(points)
                rows.append(row)
                times.append(value)
    if not rows:
        return LatencyProfile(0.0, 0.0, None, None, None)
    (fixed, of_heads, of_neurons), _ = nnls(np.array(rows), np.array(times))
    whole = fixed * ((heads > 0) + (neurons > 0)) + of_heads + of_neurons
    if whole <= 0:
        return LatencyProfile(0.0, 0.0, None, None, None)
    # Whatever is left of an empty sub-layer is part of any other.
    empty = (others.attention[0] + others.feed_forward[0]) / 2
    fixed = max(fixed, empty)
    relative = None
    if heads > 0 and neurons > 0:
        head, neuron = of_heads / heads / work.head, of_neurons / neurons / work.neuron
        steps = _steps(head, neuron, _HEADS_FACTOR, -_MOST_HEADS, _MOST_HEADS)
        relative = _as_usual(steps, 0.0, min(of_heads, of_neurons) / whole)
    share_of_heads = share_of_neurons = None
    if last is not None:
        if (share := _slope(last.attention, fixed, of_heads)) is not None:
            steps = share / _LAST_HEADS_STEP
            share_of_heads = _as_usual(steps, _LAST_HEADS_USUALLY, of_heads / whole)
        if (share := _slope(last.feed_forward, fixed, of_neurons)) is not None:
            steps = _steps(share, _usual_last_neurons(work), _LAST_NEURONS_FACTOR)
            share_of_neurons = _as_usual(steps, 0.0, of_neurons / whole)
    return LatencyProfile(
        _as_usual(_steps(empty, fixed * work.empty, _EMPTY_FACTOR), 0.0, 2 * empty / whole),
        _steps(fixed, whole * _FIXED_USUALLY, _FIXED_FACTOR),
        relative,
        share_of_heads,
        share_of_neurons,
    )


def _usual_last_neurons(work: LayerWork) -> float:
    """Return what neurons usually take where one token is read, as a share of what all take."""
    return min(1.0, _LAST_NEURONS_TOKENS / work.num_tokens)


def _steps(
    value: float,
    usually: float,
    factor: float,
    least: float = _LEAST_STEPS,
    most: float = _MOST_STEPS,
) -> float:
    """Return how many times `factor` lies between `usually` and `value`, within bounds."""
    if value <= 0 or usually <= 0:
        return 0.0 if value == usually else least if value <= 0 else most
    return min(most, max(least, log(value / usually) / log(factor)))


def _as_usual(steps: float, usually: float, share: float) -> float:
    """Return `steps`, the nearer to what is usual the smaller the `share` of a layer they tell of.

    What hardly takes time cannot be measured well, and does not have to be.
    """
    return usually + min(1.0, share / _SHARE_TO_MEASURE) * (steps - usually)


def _slope(points: Points, fixed: float, of_all: float) -> float | None:
    """Return what units take in the last layer, as a share of what they take in the others."""
    counts = [count for count in points if count > 0]
    if not counts or of_all <= 0:
        return None
    if len(counts) == 1:
        return min(_MOST_OF_OTHERS, max(0.0, points[counts[0]] - fixed) / of_all)
    rows = np.array([[1.0, count / max(counts)] for count in counts])
    (_, of_units), _ = nnls(rows, np.array([max(0.0, points[count]) for count in counts]))
    return min(_MOST_OF_OTHERS, float(of_units) / of_all)


def profile_points(
    profile: LatencyProfile, heads: int, neurons: int, work: LayerWork
) -> tuple[LayerPoints, LayerPoints]:
    """Return what sub-layers of the other layers and of the last one take; a whole layer takes 1.

    Where the last layer has figures of its own, one token of it is read.
    """
    fixed = _FIXED_USUALLY * _FIXED_FACTOR**profile.fixed
    empty = min(1.0, work.empty * _EMPTY_FACTOR**profile.empty) * fixed
    steps = 0.0 if profile.heads is None else profile.heads
    weights = np.array([heads * work.head * _HEADS_FACTOR**steps, neurons * work.neuron])
    rest = 1 - sum(fixed if count else empty for count in (heads, neurons))
    of_heads, of_neurons = (rest * weights / max(weights.sum(), 1e-12)).tolist()
    others = LayerPoints(
        _line(heads, empty, fixed, of_heads), _line(neurons, empty, fixed, of_neurons)
    )
    if profile.last_heads is None and profile.last_neurons is None:
        return others, others
    least = 1 / work.num_tokens  # units that are read for one token never cost nothing
    if profile.last_heads is not None:
        of_heads *= max(least, profile.last_heads * _LAST_HEADS_STEP)
    if profile.last_neurons is not None:
        share = _usual_last_neurons(work) * _LAST_NEURONS_FACTOR**profile.last_neurons
        of_neurons *= max(least, share)
    last = LayerPoints(
        _line(heads, empty * least, fixed, of_heads),
        _line(neurons, empty * least, fixed, of_neurons),
    )
    return others, last


def _line(count: int, empty: float, fixed: float, of_all: float) -> Points:
    """Return points between which lines are drawn: none, one and all of the units."""
    if count == 0:
        return {0: empty}
    return {0: empty, 1: fixed + of_all / count, count: fixed + of_all}


def standard_errors(profiles: Sequence[LatencyProfile]) -> dict[str, float]:
    """Return by name how well the median of each figure is known, in its steps."""
    found = {}
    for field in fields(LatencyProfile):
        values = [getattr(profile, field.name) for profile in profiles]
        found[field.name] = standard_error([value for value in values if value is not None])
    return found


def rounding_error(profiles: Sequence[LatencyProfile]) -> float:
    """Return how badly the medians are known beside what their rounding needs; at most 1: enough.

    The nearer a figure is to the edge of its step, the better it has to be known.
    """
    middle, worst = median_profile(profiles), 0.0
    for name, error in standard_errors(profiles).items():
        value = getattr(middle, name)
        if value is not None:
            to_edge = 0.5 - abs(value - round(value))
            needed = min(_LARGEST_NEEDED, max(_SMALLEST_NEEDED, to_edge / _ERRORS_TO_EDGE))
            worst = max(worst, error / needed)
    return worst


def median_profile(profiles: Sequence[LatencyProfile]) -> LatencyProfile:
    """Return the median of each figure."""
    medians: list[float | None] = []
    for values in zip(*(profile.figures for profile in profiles), strict=True):
        known = [value for value in values if value is not None]
        medians.append(float(np.median(known)) if known else None)
    empty, fixed, *others = medians
    assert empty is not None
    assert fixed is not None
    return LatencyProfile(empty, fixed, *others)
