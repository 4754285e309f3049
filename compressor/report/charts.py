"""Where everything in the chart of score against latency goes; the template only draws it.

Models differ by shape, fill and label as well as by colour. A marker's area is proportional to the
bytes of the model file. The latency axis starts at zero, the score axis does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.report import units
from compressor.report.labels import FONT_HEIGHT, FONT_WIDTH, Box, Label, place_label

WIDTH, HEIGHT = 640, 380  # user units of the SVG's view box
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 22, 54  # margins around the plot
MAX_RADIUS = 34.0
MIN_RADIUS = 3.0  # a smaller marker could not be seen; the label carries its true size
# Shapes of equal area reach differently far from their centre, in radii of the circle.
REACH = {"circle": 1.0, "square": 0.89, "diamond": 1.26, "triangle": 1.56}
SHAPES = tuple(REACH)


@dataclass(frozen=True)
class Point:
    """One model in the chart; `run` is its run's number in a comparison."""

    name: str  # baseline or final; a baseline is drawn hollow
    run: int | None
    latency_ms: float
    score: float
    num_bytes: int

    @property
    def series(self) -> int:
        """Return what picks shape and colour."""
        return 0 if self.run is None else self.run - 1


@dataclass(frozen=True)
class Tick:
    """A line of the grid with its label."""

    position: float
    label: str


@dataclass(frozen=True)
class Marker:
    """A point as drawn; `path` is SVG path data."""

    x: float
    y: float
    radius: float  # of the circle with the same area
    path: str
    series: int
    is_baseline: bool
    title: str


@dataclass(frozen=True)
class Chart:
    """Everything the template needs."""

    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    markers: tuple[Marker, ...]
    labels: tuple[Label, ...]
    limit: Tick | None  # the lowest score that the budget allows
    description: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def score_chart(
    points: Sequence[Point], *, metric: str | None, setting: str, lowest_allowed: float | None
) -> Chart:
    """Lay out `points`; `setting` names the latency in words, such as `batch 1, 32 tokens, cpu`.

    `lowest_allowed` is the baseline's score minus the budget, drawn as a line. Raises `ValueError`
    without points.
    """
    if not points:
        raise ValueError("a chart needs at least one point")
    x_axis = _Axis.from_zero(max(point.latency_ms for point in points))
    scores = [point.score for point in points]
    low = scores if lowest_allowed is None else [*scores, lowest_allowed]
    y_axis = _Axis.around(min(low), max(scores))
    largest = max(point.num_bytes for point in points)
    placed = [(point, *_place(point, x_axis, y_axis, largest)) for point in points]
    # Big markers first, so that a small one is never hidden behind them.
    placed.sort(key=lambda item: (-item[3], item[0].series))
    limit = None
    if lowest_allowed is not None:
        text = f"lowest the budget allows: {units.score(metric, lowest_allowed)}"
        limit = Tick(_y(y_axis, lowest_allowed), text)
    return Chart(
        x_label=f"latency p50, ms ({setting})",
        y_label=units.metric_words(metric) + (", %" if units.is_share(metric) else ""),
        x_ticks=tuple(Tick(_x(x_axis, tick), _tick_text(tick, x_axis)) for tick in x_axis.ticks()),
        y_ticks=tuple(
            Tick(_y(y_axis, tick), _score_text(metric, tick, y_axis)) for tick in y_axis.ticks()
        ),
        markers=tuple(_marker(*item, metric) for item in placed),
        labels=_labels(placed, limit),
        limit=limit,
        description="; ".join(_title(point, metric) for point in points),
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    step: float

    @classmethod
    def from_zero(cls, largest: float) -> _Axis:
        high = max(largest, 1e-6) * 1.25
        return cls(0.0, high, _nice_step(high / 5))

    @classmethod
    def around(cls, smallest: float, largest: float) -> _Axis:
        # At least one point high: a difference of one example should not fill the chart.
        margin = max((largest - smallest) * 0.35, 0.005)
        low, high = smallest - margin, largest + margin
        return cls(low, high, _nice_step((high - low) / 5))

    def ticks(self) -> list[float]:
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return [index * self.step for index in range(first, last + 1)]


def _nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _tick_text(value: float, axis: _Axis) -> str:
    digits = max(0, -math.floor(math.log10(axis.step) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "−")


def _score_text(metric: str | None, value: float, axis: _Axis) -> str:
    if units.is_share(metric):
        return _tick_text(100 * value, _Axis(100 * axis.low, 100 * axis.high, 100 * axis.step))
    return _tick_text(value, axis)


def _x(axis: _Axis, value: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - axis.low) / (axis.high - axis.low), 1)


def _y(axis: _Axis, value: float) -> float:
    span = HEIGHT - TOP - BOTTOM
    return round(HEIGHT - BOTTOM - span * (value - axis.low) / (axis.high - axis.low), 1)


def _place(
    point: Point, x_axis: _Axis, y_axis: _Axis, largest_bytes: int
) -> tuple[float, float, float]:
    area_share = point.num_bytes / largest_bytes if largest_bytes > 0 else 0.0
    radius = max(MAX_RADIUS * math.sqrt(area_share), MIN_RADIUS)
    return _x(x_axis, point.latency_ms), _y(y_axis, point.score), radius


def _shape(point: Point) -> str:
    return SHAPES[point.series % len(SHAPES)]


def _marker_box(point: Point, x: float, y: float, radius: float) -> Box:
    reach = radius * REACH[_shape(point)]
    return Box(x - reach, y - reach, x + reach, y + reach)


def marker_path(shape: str, x: float, y: float, radius: float) -> str:
    """Return a closed path of area pi * radius**2 centred on (x, y)."""
    area = math.pi * radius**2
    if shape == "circle":
        half_turn = f"a{radius:.2f},{radius:.2f} 0 1,0"
        across = f"{2 * radius:.2f},0"
        return f"M{x - radius:.2f},{y:.2f} {half_turn} {across} {half_turn} -{across} Z"
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


def _marker(point: Point, x: float, y: float, radius: float, metric: str | None) -> Marker:
    path = marker_path(_shape(point), x, y, radius)
    is_baseline = point.name == "baseline"
    title = _title(point, metric)
    return Marker(x, y, round(radius, 2), path, point.series, is_baseline, title)


def _labels(
    placed: Sequence[tuple[Point, float, float, float]], limit: Tick | None
) -> tuple[Label, ...]:
    taken = [_marker_box(*item) for item in placed]
    if limit is not None:
        left = WIDTH - RIGHT - len(limit.label) * FONT_WIDTH
        taken.append(Box(left, limit.position - 4, WIDTH - RIGHT, limit.position + 18))
    plot = Box(LEFT, 0, WIDTH, HEIGHT - BOTTOM)
    labels = []
    for group in _coincident(placed):
        point, x, y, _ = group[0]
        runs = sorted(item[0].run for item in group if item[0].run is not None)
        name = " ".join([point.name, ", ".join(map(str, runs))]).strip()
        text = f"{name} · {units.megabytes(point.num_bytes)} MB"
        gap = max(radius * REACH[_shape(member)] for member, _, _, radius in group) + 6
        label, box = place_label(text, x, y, gap, taken=taken, plot=plot)
        taken.append(box)
        labels.append(label)
    return tuple(labels)


def _coincident(
    placed: Sequence[tuple[Point, float, float, float]],
) -> list[list[tuple[Point, float, float, float]]]:
    """Group equally named and equally large points that lie closer than a label is high."""
    groups: list[list[tuple[Point, float, float, float]]] = []
    for item in placed:
        for group in groups:
            point, x, y, _ = group[0]
            same = point.name == item[0].name and point.num_bytes == item[0].num_bytes
            if same and math.hypot(item[1] - x, item[2] - y) < FONT_HEIGHT:
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _title(point: Point, metric: str | None) -> str:
    name = point.name if point.run is None else f"run {point.run} {point.name}"
    return (
        f"{name}: {units.metric_words(metric)} {units.score(metric, point.score)}, "
        f"{units.number(point.latency_ms)} ms, {units.megabytes(point.num_bytes)} MB"
    )
