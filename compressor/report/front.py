"""The page of a sweep: every trial in a table, and score against what it costs with the front.

It draws what it is told; which trials are feasible, on the front and chosen is settled elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from compressor.measurements import RunReport
from compressor.report import units
from compressor.report.charts import Chart, Point, Role, score_chart
from compressor.report.compare import incomparable
from compressor.report.templating import fill_html

Standing = Literal["best", "feasible", "over", "none"]

_ROLES: dict[Standing, Role] = {"best": "final", "feasible": "pass", "over": "try"}
_TONES: dict[Standing, str] = {
    "best": "passed",
    "feasible": "passed",
    "over": "budget_exceeded",
    "none": "failed",
}
_WORDS: dict[Standing, str] = {
    "best": "chosen",
    "feasible": "keeps all constraints",
    "over": "breaks a constraint",
    "none": "not done",
}


@dataclass(frozen=True)
class Measured:
    """What a model was measured at: the score, bytes of the ONNX file, and latency in ms."""

    score: float
    num_bytes: int
    latency_ms: float | None


_FEW = 8  # trials, all of which have room for a label
_COSTS: tuple[tuple[str, str, Callable[[Measured], float | None]], ...] = (
    ("size on disk", "MB", lambda found: found.num_bytes / units.BYTES_PER_MB),
    ("latency", "ms", lambda found: found.latency_ms),
)


@dataclass(frozen=True)
class TrialRow:
    """One trial: `measured` is None where it was not done, `said` what there is to say."""

    number: int
    settings: tuple[str, ...]
    standing: Standing
    on_front: bool
    measured: Measured | None
    said: str = ""


@dataclass(frozen=True)
class FrontPage:
    """All that the page shows; `facts` are rows of what the sweep was."""

    name: str
    headline: str
    metric: str | None
    facts: tuple[tuple[str, str], ...]
    baseline: Measured | None
    max_drop: float  # of the recipe's budget
    trials: tuple[TrialRow, ...]
    best_recipe: str | None


@dataclass(frozen=True)
class _Row:
    """A trial as text."""

    number: int
    settings: tuple[str, ...]
    tone: str
    verdict: str
    on_front: bool
    score: str
    change: str
    megabytes: str
    latency: str
    speedup: str
    said: str


def render_front_html(page: FrontPage, reports: Sequence[tuple[str, RunReport]] = ()) -> str:
    """Return a self-contained page; `reports` of trials tell what must not be compared."""
    return fill_html(
        "front.html.j2",
        page=page,
        rows=[_row(page, item) for item in page.trials],
        has_times=any(item.measured and item.measured.latency_ms for item in page.trials),
        charts=_charts(page),
        warnings=incomparable(reports) if reports else [],
    )


def _row(page: FrontPage, item: TrialRow) -> _Row:
    found, before = item.measured, page.baseline
    score = None if found is None else found.score
    drop = None if score is None or before is None else before.score - score
    latency = None if found is None else found.latency_ms
    earlier = None if before is None else before.latency_ms
    return _Row(
        number=item.number,
        settings=item.settings,
        tone=_TONES[item.standing],
        verdict=_WORDS[item.standing],
        on_front=item.on_front,
        score=units.score(page.metric, score),
        change=units.change(drop),
        megabytes=units.megabytes(None if found is None else found.num_bytes),
        latency=units.number(latency),
        speedup=units.number(earlier / latency if earlier and latency else None),
        said=item.said,
    )


def _charts(page: FrontPage) -> list[tuple[str, Chart]]:
    """Return a chart of score against size, and against latency where that was measured.

    Without the baseline, beside which the trials would stand in a heap. Trials on the front are
    labelled, or all of them where they are few.
    """
    found = [item for item in page.trials if item.measured is not None]
    if not found:
        return []
    lowest = None
    if page.baseline is not None and any(item.standing == "over" for item in found):
        lowest = page.baseline.score - page.max_drop
    charts = []
    for name, unit, cost in _COSTS:
        points = [
            Point(
                f"{item.number}",
                None,
                value,
                item.measured.score,
                item.measured.num_bytes,
                _ROLES[item.standing],
                labelled=item.on_front or len(found) <= _FEW,
            )
            for item in found
            if item.measured is not None and (value := cost(item.measured)) is not None
        ]
        if points:
            title = f"{name}, {unit}"
            chart = score_chart(
                points,
                metric=page.metric,
                cost=title,
                unit=unit,
                lowest_allowed=lowest,
                sized=False,
            )
            charts.append((name, chart))
    return charts
