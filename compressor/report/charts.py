"""Where everything in a chart of score against cost goes; the template only draws it.

Cost is latency or size. Models differ by shape, fill and label as well as by colour, and the same
figures stand in a table below each chart. The cost axis starts at zero, the score axis does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from compressor.report import units
from compressor.report.chart_parts import (
    FONT_HEIGHT,
    FONT_WIDTH,
    REACH,
    ROLE_SHAPES,
    SHAPES,
    Axis,
    Box,
    Label,
    Tick,
    marker_path,
    pareto_front,
    place_label,
)

WIDTH, HEIGHT = 560, 350  # user units of the SVG's view box
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 22, 54  # margins around the plot
MAX_RADIUS = 30.0
MIN_RADIUS = 3.0  # a smaller marker could not be seen; the label carries its true size
PLAIN_RADIUS = 7.5  # where size is an axis already
RING_GAP = 4.5  # between a marker on the Pareto front and the ring around it

Role = Literal["baseline", "pass", "spare", "try", "final"]


@dataclass(frozen=True)
class Point:
    """One model in the chart; `run` is its run's number in a comparison.

    `cost` is in the unit of the chart's axis. A baseline is drawn hollow, a `try` is one that a
    gate refused, a `spare` one that passed and that the run did not go on with. One that is not
    `labelled` has its name in the table below the chart alone.
    """

    name: str
    run: int | None
    cost: float
    score: float
    num_bytes: int
    role: Role = "final"
    labelled: bool = True

    @property
    def series(self) -> int:
        """Return what picks the colour, and the shape in a comparison."""
        return 0 if self.run is None else self.run - 1

    @property
    def shape(self) -> str:
        """Return the marker's shape: of its run in a comparison, else of its role."""
        return ROLE_SHAPES[self.role] if self.run is None else SHAPES[self.series % len(SHAPES)]


@dataclass(frozen=True)
class Marker:
    """A point as drawn; `path` is SVG path data, `ring` the circle of one on the front."""

    x: float
    y: float
    radius: float  # of the circle with the same area
    path: str
    series: int
    role: Role
    title: str
    ring: float | None

    @property
    def is_baseline(self) -> bool:
        """Tell whether it is drawn hollow."""
        return self.role == "baseline"


@dataclass(frozen=True)
class Figures:
    """One point as text, for the table that says the same as the chart."""

    name: str
    cost: str
    score: str
    megabytes: str
    on_front: bool


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
    limit_at_left: bool  # where the limit's label hides least
    front: str  # SVG path data of the Pareto front, empty when it is a single model
    title: str
    description: str
    figures: tuple[Figures, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    top: int = TOP
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def score_chart(
    points: Sequence[Point],
    *,
    metric: str | None,
    cost: str,
    unit: str,
    lowest_allowed: float | None,
    sized: bool = True,
) -> Chart:
    """Lay out `points`; `cost` names the other axis, such as `latency p50, ms (batch 1, cpu)`.

    `lowest_allowed` is the baseline's score minus the budget, drawn as a line. With `sized` the
    area of a marker is proportional to the bytes of the model file. Raises `ValueError` without
    points.
    """
    if not points:
        raise ValueError("a chart needs at least one point")
    x_axis = Axis.from_zero(max(point.cost for point in points))
    scores = [point.score for point in points]
    y_axis = Axis.of_scores(scores, lowest_allowed)
    front = pareto_front([(point.cost, point.score) for point in points])
    largest = max(point.num_bytes for point in points) if sized else None
    placed = [_place(point, x_axis, y_axis, largest, metric) for point in points]
    on_front = {placed[index] for index in front}
    # Big markers first, so that a small one is never hidden behind them.
    drawn = sorted(placed, key=lambda item: (-item.radius, item.point.series))
    limit, limit_box = None, None
    if lowest_allowed is not None:
        text = f"lowest the budget allows: {units.score(metric, lowest_allowed)}"
        limit = Tick(_y(y_axis, lowest_allowed), text)
        limit_box = _limit_box(limit, placed)
    return Chart(
        x_label=cost,
        y_label=units.metric_words(metric) + (", %" if units.is_share(metric) else ""),
        x_ticks=tuple(Tick(_x(x_axis, tick), x_axis.text(tick)) for tick in x_axis.ticks()),
        y_ticks=tuple(
            Tick(_y(y_axis, tick), y_axis.score_text(metric, tick)) for tick in y_axis.ticks()
        ),
        markers=tuple(_marker(item, metric, unit, item in on_front) for item in drawn),
        labels=_labels(drawn, [placed[index] for index in front], limit_box),
        limit=limit,
        limit_at_left=limit_box is not None and limit_box.left == LEFT,
        front=_front_path([placed[index] for index in front]),
        title=f"{units.title(metric)} against {cost}",
        description="; ".join(_title(point, metric, unit) for point in points),
        figures=tuple(_figures(item.point, metric, on_front=item in on_front) for item in placed),
    )


@dataclass(frozen=True)
class _Placed:
    point: Point
    x: float
    y: float
    radius: float
    label: str  # without the runs that share it

    @property
    def reach(self) -> float:
        return self.radius * REACH[self.point.shape]

    @property
    def box(self) -> Box:
        return Box(
            self.x - self.reach, self.y - self.reach, self.x + self.reach, self.y + self.reach
        )


def _x(axis: Axis, value: float) -> float:
    return axis.place(value, LEFT, WIDTH - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return axis.place(value, HEIGHT - BOTTOM, TOP)


def _place(
    point: Point, x_axis: Axis, y_axis: Axis, largest_bytes: int | None, metric: str | None
) -> _Placed:
    radius, label = PLAIN_RADIUS, ""
    if largest_bytes is not None:
        area_share = point.num_bytes / largest_bytes if largest_bytes > 0 else 0.0
        radius = max(MAX_RADIUS * math.sqrt(area_share), MIN_RADIUS)
        label = f" · {units.megabytes(point.num_bytes)} MB"
    if point.score < y_axis.low:
        label += f" · {units.score(metric, point.score)} ↓"
    return _Placed(point, _x(x_axis, point.cost), _y(y_axis, point.score), radius, label)


def _marker(item: _Placed, metric: str | None, unit: str, is_on_front: bool) -> Marker:
    path = marker_path(item.point.shape, item.x, item.y, item.radius)
    title = _title(item.point, metric, unit)
    ring = round(item.reach + RING_GAP, 2) if is_on_front else None
    radius = round(item.radius, 2)
    return Marker(item.x, item.y, radius, path, item.point.series, item.point.role, title, ring)


def _front_path(front: Sequence[_Placed]) -> str:
    """Return the staircase through the front: what a given cost buys at best."""
    if len(front) < 2:
        return ""
    first, *rest = front
    return f"M{first.x},{first.y}" + "".join(f" H{item.x} V{item.y}" for item in rest)


def _limit_box(limit: Tick, placed: Sequence[_Placed]) -> Box:
    """Return the place of the limit's label: at the right, or at the left if that hides less."""
    top, bottom, width = limit.position - 4, limit.position + 18, len(limit.label) * FONT_WIDTH
    right = Box(WIDTH - RIGHT - width, top, WIDTH - RIGHT, bottom)
    left = Box(LEFT, top, LEFT + width, bottom)
    return min(right, left, key=lambda box: sum(box.overlap(item.box) for item in placed))


def _labels(
    placed: Sequence[_Placed], front: Sequence[_Placed], limit: Box | None
) -> tuple[Label, ...]:
    taken = [item.box for item in placed]
    # The treads of the staircase; its risers end in markers.
    taken += [Box(low.x, low.y - 4, high.x, low.y + 4) for low, high in pairwise(front)]
    if limit is not None:
        taken.append(limit)
    plot = Box(LEFT, 0, WIDTH, HEIGHT - BOTTOM)
    labels = []
    for group in _coincident([item for item in placed if item.point.labelled]):
        first = group[0]
        runs = sorted(item.point.run for item in group if item.point.run is not None)
        name = " ".join([first.point.name, ", ".join(map(str, runs))]).strip()
        text = name + first.label
        gap = max(item.reach for item in group) + RING_GAP + 3
        label, box = place_label(text, first.x, first.y, gap, taken=taken, plot=plot)
        taken.append(box)
        labels.append(label)
    return tuple(labels)


def _coincident(placed: Sequence[_Placed]) -> list[list[_Placed]]:
    """Group equally named and equally large points that lie closer than a label is high."""
    groups: list[list[_Placed]] = []
    for item in placed:
        for group in groups:
            first = group[0]
            same = (first.point.name, first.point.num_bytes) == (
                item.point.name,
                item.point.num_bytes,
            )
            if same and math.hypot(item.x - first.x, item.y - first.y) < FONT_HEIGHT:
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _named(point: Point) -> str:
    return point.name if point.run is None else f"run {point.run} {point.name}"


def _figures(point: Point, metric: str | None, *, on_front: bool) -> Figures:
    megabytes = units.megabytes(point.num_bytes)
    score = units.score(metric, point.score)
    return Figures(_named(point), units.number(point.cost), score, megabytes, on_front)


def _title(point: Point, metric: str | None, unit: str) -> str:
    facts = [f"{units.metric_words(metric)} {units.score(metric, point.score)}"]
    if unit != "MB":
        facts.append(f"{units.number(point.cost)} {unit}")
    facts.append(f"{units.megabytes(point.num_bytes)} MB")
    return f"{_named(point)}: {', '.join(facts)}"
