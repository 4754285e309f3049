"""Everything a run measured on its way: the baseline, each pass, what a gate refused, the result.

A report from before `tries` were recorded has none, and a pass then counts as tried once.
"""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measurements import End, PassRecord, PassTry, RunReport
from compressor.report import units
from compressor.report.charts import Point, Role
from compressor.report.table import unreached_passes


@dataclass(frozen=True)
class Tried:
    """One model that was measured, or should have been; `score` and `num_bytes` are None then."""

    score: float | None
    num_bytes: int | None
    role: Role
    change: str  # what was milder than before, empty for a first attempt


@dataclass(frozen=True)
class Stage:
    """One step of the run with every attempt at it, in order."""

    title: str
    attempts: tuple[Tried, ...]  # empty where the run did not come so far

    @property
    def kept(self) -> Tried | None:
        """Return the model that the run went on with."""
        return next((item for item in self.attempts if item.role not in ("try", "spare")), None)


def stages(report: RunReport) -> list[Stage]:
    """Return baseline, passes and final artifact in the order of the run."""
    passes = enumerate(report.passes, start=1)
    return [
        Stage("Baseline", _end(report, "baseline")),
        *(Stage(f"{number} · {item.kind}", _attempts(item)) for number, item in passes),
        *(Stage(f"{number} · {kind}", ()) for number, kind in unreached_passes(report)),
        Stage("Final artifact", _end(report, "final")),
    ]


def size_points(report: RunReport) -> list[Point]:
    """Return every model with a score and a size as a point of the chart of score against MB.

    The final artifact mostly is the last pass's model; then it alone is drawn.
    """
    found: list[Point] = []
    for stage in stages(report):
        for number, item in enumerate(stage.attempts, start=1):
            if item.score is None or item.num_bytes is None:
                continue
            name = stage.title
            if len(stage.attempts) > 1:
                name = f"{stage.title.partition(' ')[0]}, try {number}"
            cost = item.num_bytes / 1e6
            found.append(Point(name, None, cost, item.score, item.num_bytes, item.role))
    last = [point for point in found if point.role == "final"]
    same = {(point.cost, point.score) for point in last}
    others = [
        point for point in found if point.role != "pass" or (point.cost, point.score) not in same
    ]
    return others if last else found


def was_repaired(report: RunReport) -> bool:
    """Tell whether any pass was tried more than once because a gate refused it."""
    return report.target is None and any(len(item.tries) > 1 for item in report.passes)


def _end(report: RunReport, end: End) -> tuple[Tried, ...]:
    record = report.model(end)
    if record is None:
        return ()
    return (Tried(units.known(record.score.value), record.size.bytes_on_disk, end, ""),)


def _attempts(record: PassRecord) -> tuple[Tried, ...]:
    if not record.tries:
        role: Role = "pass" if record.verdict == "passed" else "try"
        return (Tried(record.score_after, _bytes(record), role, ""),)
    return tuple(
        Tried(
            score=item.score_after,
            num_bytes=_bytes(item),
            role=_role(item),
            change="" if index == 0 else item.change,
        )
        for index, item in enumerate(record.tries)
    )


def _role(item: PassTry) -> Role:
    if item.kept:
        return "pass"
    return "spare" if item.verdict == "passed" else "try"


def _bytes(record: PassRecord | PassTry) -> int | None:
    return None if record.size is None else record.size.bytes_on_disk
