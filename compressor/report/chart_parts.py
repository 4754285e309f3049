"""Parts of charts: axes, where labels go, shapes of markers, and the Pareto front."""

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


FONT_WIDTH, FONT_HEIGHT = 6.9, 16.0  # of one character, estimated a little wide


@dataclass(frozen=True)
class Label:
    """The text beside a marker, or beside several that coincide."""

    text: str
    x: float
    y: float
    anchor: str  # SVG's text-anchor


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Return width times height."""
        return (self.right - self.left) * (self.bottom - self.top)

    def overlap(self, other: Box) -> float:
        """Return the area that two rectangles share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def place_label(
    text: str, x: float, y: float, gap: float, *, taken: Sequence[Box], plot: Box
) -> tuple[Label, Box]:
    """Return the label where it hides least of what is `taken`, with its box.

    It stands at least `gap` away from (`x`, `y`), beside it if possible, and inside `plot`.
    """
    width, half = len(text) * FONT_WIDTH, FONT_HEIGHT / 2
    candidates = []
    for shift in (0.0, FONT_HEIGHT, 2 * FONT_HEIGHT, 3 * FONT_HEIGHT):
        for text_x, middle, anchor in (
            (x + gap, y - shift, "start"),
            (x + gap, y + shift, "start"),
            (x - gap, y - shift, "end"),
            (x - gap, y + shift, "end"),
            (x, y - gap - 6 - shift, "middle"),
            (x, y + gap + 6 + shift, "middle"),
        ):
            left = text_x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = Box(left, middle - half, left + width, middle + half)
            outside = box.area - box.overlap(plot)
            cost = sum(box.overlap(other) for other in taken) + 10 * outside + shift
            label = Label(text, round(text_x, 1), round(middle, 1), anchor)
            candidates.append((round(cost, 6), label, box))
    _, label, box = min(candidates, key=lambda item: item[0])  # the first of the cheapest
    return label, box


# How far each shape reaches from its centre, in radii of a circle of the same area.
REACH = {"circle": 1.0, "square": 0.89, "diamond": 1.26, "triangle": 1.56, "cross": 1.0}
SHAPES = ("circle", "square", "diamond", "triangle")  # of the runs of a comparison, in turn
# Of what a single run tried.
ROLE_SHAPES = {
    "baseline": "circle",
    "pass": "square",
    "spare": "square",  # hollow
    "try": "cross",
    "final": "diamond",
}


def marker_path(shape: str, x: float, y: float, radius: float) -> str:
    """Return SVG path data of area pi * radius**2 centred on (x, y).

    A cross is two strokes without an area, `radius` long on each side.
    """
    area = math.pi * radius**2
    if shape == "circle":
        half_turn = f"a{radius:.2f},{radius:.2f} 0 1,0"
        across = f"{2 * radius:.2f},0"
        return f"M{x - radius:.2f},{y:.2f} {half_turn} {across} {half_turn} -{across} Z"
    if shape == "cross":
        h = radius * math.sqrt(0.5)
        strokes = [((-h, -h), (h, h)), ((-h, h), (h, -h))]
        return " ".join(
            f"M{x + a:.2f},{y + b:.2f} L{x + c:.2f},{y + d:.2f}" for (a, b), (c, d) in strokes
        )
    if shape == "square":
        h = math.sqrt(area) / 2
        corners = [(-h, -h), (h, -h), (h, h), (-h, h)]
    elif shape == "diamond":
        h = math.sqrt(area / 2)
        corners = [(0, -h), (h, 0), (0, h), (-h, 0)]
    else:
        side = math.sqrt(4 * area / math.sqrt(3))
        up = side / math.sqrt(3)
        corners = [(0, -up), (side / 2, up / 2), (-side / 2, up / 2)]
    return "M" + " L".join(f"{x + dx:.2f},{y + dy:.2f}" for dx, dy in corners) + " Z"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) that no other one dominates, by cost.

    A point is dominated by one that costs no more and scores no less and is better in one of the
    two. Of equal points the first stands for all.

    >>> pareto_front([(90.0, 0.89), (23.0, 0.88), (23.0, 0.85), (30.0, 0.87), (17.0, 0.5)])
    [4, 1, 0]
    """
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda item: (points[item][0], -points[item][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front
