"""Everything a run measured on its way: the baseline, each pass, what a gate refused, the result.

A report from before `tries` were recorded has none, and a pass then counts as tried once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def stages(data: dict[str, Any]) -> list[Stage]:
    """Return baseline, passes and final artifact in the order of the run."""
    passes = enumerate(data["passes"], start=1)
    return [
        Stage("Baseline", _end(data, "baseline")),
        *(Stage(f"{number} · {item['kind']}", _attempts(item)) for number, item in passes),
        *(Stage(f"{number} · {kind}", ()) for number, kind in unreached_passes(data)),
        Stage("Final artifact", _end(data, "final")),
    ]


def size_points(data: dict[str, Any]) -> list[Point]:
    """Return every model with a score and a size as a point of the chart of score against MB.

    The final artifact mostly is the last pass's model; then it alone is drawn.
    """
    found: list[Point] = []
    for stage in stages(data):
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


def was_repaired(data: dict[str, Any]) -> bool:
    """Tell whether any pass was tried more than once because a gate refused it."""
    return data["target"] is None and any(len(item["tries"]) > 1 for item in data["passes"])


def _end(data: dict[str, Any], end: Any) -> tuple[Tried, ...]:
    record = data[end]
    if record is None:
        return ()
    return (Tried(record["score"]["value"], record["size"]["bytes_on_disk"], end, ""),)


def _attempts(record: dict[str, Any]) -> tuple[Tried, ...]:
    if not record["tries"]:
        role: Role = "pass" if record["verdict"] == "passed" else "try"
        return (Tried(record["score_after"], _bytes(record), role, ""),)
    return tuple(
        Tried(
            score=item["score_after"],
            num_bytes=_bytes(item),
            role=_role(item),
            change="" if index == 0 else item["change"],
        )
        for index, item in enumerate(record["tries"])
    )


def _role(item: dict[str, Any]) -> Role:
    if item["kept"]:
        return "pass"
    return "spare" if item["verdict"] == "passed" else "try"


def _bytes(record: dict[str, Any]) -> int | None:
    return None if record["size"] is None else record["size"]["bytes_on_disk"]
