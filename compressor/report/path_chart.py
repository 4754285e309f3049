"""Chart of every attempt from the baseline to the artifact: score above, size below.

An attempt that a gate refused is a cross, one that passed and was not kept a hollow square; the
line joins the models that the run went on with.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measurements import RunReport
from compressor.report import units
from compressor.report.attempts import Stage, Tried, stages
from compressor.report.chart_parts import ROLE_SHAPES, Axis, Tick, marker_path
from compressor.report.charts import Role
from compressor.report.scores import value_of

WIDTH = 1060
LEFT, RIGHT = 74, 16
TOP, BOTTOM = 34, 210  # of the scores
BARS_TOP, BARS_BOTTOM = 262, 330  # of the sizes
NAMES = 350
RADIUS = 7.5
SPREAD = 62.0  # between attempts at one pass
_ENDINGS = {"try": ", refused", "spare": ", passed but not kept"}
LABELLED = 4  # attempts at one pass that have room for a label each


@dataclass(frozen=True)
class Mark:
    """One measured model; `label` stands at (`x`, `label_y`)."""

    x: float
    y: float
    path: str
    role: Role
    label: str
    label_y: float
    title: str


@dataclass(frozen=True)
class Bar:
    """The model file of one step, as wide and high as drawn."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Column:
    """One step; `lines` is its name, broken to fit."""

    x: float
    lines: tuple[str, ...]
    marks: tuple[Mark, ...]
    bar: Bar | None


@dataclass(frozen=True)
class PathChart:
    """Everything the template needs."""

    columns: tuple[Column, ...]
    line: str  # SVG path data through the models that were kept
    y_label: str
    y_ticks: tuple[Tick, ...]
    limit: Tick
    has_refused: bool
    has_spare: bool
    title: str
    description: str
    height: int
    width: int = WIDTH
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = BOTTOM
    bars_top: int = BARS_TOP
    bars_bottom: int = BARS_BOTTOM
    names: int = NAMES


def path_chart(report: RunReport) -> PathChart | None:
    """Lay out the run; None when not even the baseline has a score."""
    start = value_of(report, "baseline")
    if start is None:
        return None
    found, metric = stages(report), report.metric
    lowest = start - report.max_drop
    scores = [item.score for stage in found for item in stage.attempts if item.score is not None]
    axis = Axis.of_scores(scores, lowest)
    largest = max(item.num_bytes or 0 for stage in found for item in stage.attempts)
    width = (WIDTH - LEFT - RIGHT) / len(found)
    columns = tuple(
        _column(stage, LEFT + (index + 0.5) * width, width, axis, metric, largest)
        for index, stage in enumerate(found)
    )
    marks = [mark for column in columns for mark in column.marks]
    kept = [mark for mark in marks if mark.role not in ("try", "spare")]
    return PathChart(
        columns=columns,
        line="M" + " L".join(f"{mark.x},{mark.y}" for mark in kept),
        y_label=units.metric_words(metric) + (", %" if units.is_share(metric) else ""),
        y_ticks=tuple(Tick(_y(axis, tick), axis.score_text(metric, tick)) for tick in axis.ticks()),
        limit=Tick(_y(axis, lowest), f"lowest the budget allows: {units.score(metric, lowest)}"),
        height=NAMES + 15 * max(len(column.lines) for column in columns) - 8,
        has_refused=any(mark.role == "try" for mark in marks),
        has_spare=any(mark.role == "spare" for mark in marks),
        title=f"{units.title(metric)} and size after each step",
        description="; ".join(mark.title for mark in marks),
    )


def _y(axis: Axis, value: float) -> float:
    return axis.place(value, BOTTOM, TOP)


def _column(
    stage: Stage, x: float, width: float, axis: Axis, metric: str | None, largest: int
) -> Column:
    count = len(stage.attempts)
    spread = min(SPREAD, 0.85 * width / max(count, 1))
    marks = [
        _mark(stage, index, x + (index - (count - 1) / 2) * spread, axis, metric)
        for index in range(count)
        if stage.attempts[index].score is not None
    ]
    return Column(
        x=round(x, 1),
        lines=_broken(stage.title, max(8, int(width / 7.2))),
        marks=tuple(marks),
        bar=_bar(stage.kept, x, width, largest),
    )


def _mark(stage: Stage, index: int, x: float, axis: Axis, metric: str | None) -> Mark:
    item = stage.attempts[index]
    assert item.score is not None
    y = _y(axis, item.score)
    text = units.score(metric, item.score)
    is_refused, is_kept = item.role == "try", item.role not in ("try", "spare")
    attempt = f", try {index + 1}" if len(stage.attempts) > 1 else ""
    change = f" ({item.change})" if item.change else ""
    below = " ↓" if item.score < axis.low else ""
    has_label = len(stage.attempts) <= LABELLED or is_kept
    return Mark(
        x=round(x, 1),
        y=y,
        path=marker_path(ROLE_SHAPES[item.role], x, y, RADIUS),
        role=item.role,
        label=text + below if has_label else "",
        label_y=round(y + (21 if is_refused and y < BOTTOM - 16 else -14), 1),
        title=f"{stage.title}{attempt}{change}: {text}"
        f"{', ' + units.megabytes(item.num_bytes) + ' MB' if item.num_bytes else ''}"
        f"{_ENDINGS.get(item.role, '')}",
    )


def _bar(item: Tried | None, x: float, width: float, largest: int) -> Bar | None:
    if item is None or item.num_bytes is None or largest <= 0:
        return None
    height = max((BARS_BOTTOM - BARS_TOP) * item.num_bytes / largest, 1.0)
    wide = min(64.0, 0.5 * width)
    return Bar(
        x=round(x - wide / 2, 1),
        y=round(BARS_BOTTOM - height, 1),
        width=round(wide, 1),
        height=round(height, 1),
        label=f"{units.megabytes(item.num_bytes)} MB",
    )


def _broken(name: str, room: int) -> tuple[str, ...]:
    """Break a step's name at spaces and underscores into lines of at most `room` characters."""
    lines = [""]
    for part in name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len((lines[-1] + part).rstrip()) > room:
            lines.append("")
        lines[-1] += part
    return tuple(line.strip() for line in lines[:3])
