"""Axes of the charts: their range, round numbers for the grid, and the text of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.report import units


@dataclass(frozen=True)
class Tick:
    """A line of the grid with its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`; the grid has a line at each multiple of `step`."""

    low: float
    high: float
    step: float

    @classmethod
    def from_zero(cls, largest: float) -> Axis:
        """Return an axis from zero with a quarter of room above `largest`."""
        high = max(largest, 1e-6) * 1.25
        return cls(0.0, high, nice_step(high / 5))

    @classmethod
    def around(cls, smallest: float, largest: float) -> Axis:
        """Return an axis around two scores, at least one point high.

        A difference of one example should not fill the chart.
        """
        margin = max((largest - smallest) * 0.35, 0.005)
        low, high = smallest - margin, largest + margin
        return cls(low, high, nice_step((high - low) / 5))

    @classmethod
    def of_scores(cls, scores: Sequence[float], lowest: float | None) -> Axis:
        """Return an axis for `scores` on which `lowest`, what the budget allows, stays visible.

        A score that lies more than three budgets below it is below the axis; `place` puts it at
        the end.
        """
        highest = max(scores)
        if lowest is None:
            return cls.around(min(scores), highest)
        floor = lowest - 3 * max(highest - lowest, 0.005)
        return cls.around(max(min(*scores, lowest), floor), highest)

    def ticks(self) -> list[float]:
        """Return the multiples of `step` on the axis."""
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return [index * self.step for index in range(first, last + 1)]

    def place(self, value: float, start: float, end: float) -> float:
        """Return where `value` lies between the pixels `start` (of `low`) and `end` (of `high`).

        What is below the axis stands at its start.
        """
        share = max(value - self.low, 0.0) / (self.high - self.low)
        return round(start + (end - start) * share, 1)

    def text(self, value: float) -> str:
        """Return a tick's label with as many digits as the step has."""
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{value:.{digits}f}".replace("-", "−")

    def score_text(self, metric: str | None, value: float) -> str:
        """Return the label of a score, in per cent where the metric is a share."""
        if units.is_share(metric):
            return Axis(100 * self.low, 100 * self.high, 100 * self.step).text(100 * value)
        return self.text(value)


def nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
