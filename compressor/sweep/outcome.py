"""What became of a trial, by what it is compared with others, and which of them are best.

Nothing here knows Optuna: the front and the choice follow from the figures alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compressor.measurements import RunReport
from compressor.stored_types import read_facts
from compressor.sweep.settings import BETTER, Sweep
from compressor.sweep.space import Value
from compressor.words import moved, points

# refused: no recipe; over_budget: a gate of the recipe failed; failed: a step could not be done
State = Literal["done", "over_budget", "refused", "failed"]

_ROUNDING = 1e-12  # scores are sums of fractions, as in the recipe's budget
_POINT = 0.01
_LEAST = frozenset({"score", "speedup"})  # figures whose limit is the least that is allowed


@dataclass(frozen=True)
class Figures:
    """What a trial that was done is compared by.

    `score` and `drop` are of the search split; `bytes` are those of the ONNX file; `latency_ms` is
    the artifact's median on the clock that choices go by, `speedup` the baseline's over it, both
    None where nothing goes by time.
    """

    metric: str
    score: float
    drop: float
    bytes: int
    latency_ms: float | None
    speedup: float | None

    def of(self, name: str) -> float:
        """Return one figure by its name in a sweep file."""
        value = getattr(self, name)
        assert value is not None, "a sweep that goes by time measures it"
        return float(value)


@dataclass(frozen=True)
class Ends:
    """Baseline and artifact of a trial: size in bytes, score, and latency in ms."""

    bytes: int
    score: float
    latency_ms: float | None


@dataclass(frozen=True)
class Outcome:
    """How a trial ended; `reason` says why one was not done, `over` how far it fell too far."""

    state: State
    reason: str = ""
    over: float | None = None  # of a gate that failed: drop beyond what it allows
    figures: Figures | None = None
    baseline: Ends | None = None
    seconds: float = 0.0
    num_steps: int = 0
    num_reused: int = 0

    @classmethod
    def of_report(cls, report: RunReport) -> Outcome:
        """Return the outcome of a trial that was done."""
        assert report.baseline is not None
        assert report.final is not None
        latency = {item.model: item.deciding_ms for item in report.latencies}
        before, after = report.baseline.score, report.final.score
        times = (latency.get("baseline"), latency.get("final"))
        return cls(
            "done",
            figures=Figures(
                metric=after.metric,
                score=after.value,
                drop=before.value - after.value,
                bytes=report.final.size.bytes_on_disk,
                latency_ms=times[1],
                speedup=None if times[0] is None or not times[1] else times[0] / times[1],
            ),
            baseline=Ends(report.baseline.size.bytes_on_disk, before.value, times[0]),
            seconds=report.seconds,
            num_steps=len(report.steps),
            num_reused=sum(step.reused for step in report.steps),
        )


@dataclass(frozen=True)
class Judged:
    """A trial that has ended: its number, its values by the keys of the space, and its outcome."""

    number: int
    point: Mapping[str, Value]
    settings: tuple[str, ...]  # as --set takes them
    outcome: Outcome

    @property
    def figures(self) -> Figures | None:
        """Return its figures; None where it was not done."""
        return self.outcome.figures

    @property
    def words(self) -> str:
        """Return its settings in one line, such as `passes.0.ratio=0.4, seed=1`."""
        return ", ".join(self.settings)


def excesses(sweep: Sweep, outcome: Outcome) -> dict[str, float]:
    """Return for each constraint how far a trial is from keeping it; 0 or less where it does.

    Drops and scores count in points, other figures as a part of the limit. What was not done keeps
    nothing.
    """
    figures = outcome.figures
    if figures is None:
        return {"gate": 1e6 if outcome.over is None else max(outcome.over, 1e-9) / _POINT}
    found = {}
    for name, limit in sweep.constraints.given.items():
        value = figures.of(name)
        if name in ("drop", "score"):
            excess = (value - limit) * (-1 if name in _LEAST else 1) / _POINT
        else:
            excess = limit / value - 1 if name in _LEAST else value / limit - 1
        found[name] = 0.0 if 0 < excess <= _ROUNDING / _POINT else excess
    return found


def is_feasible(sweep: Sweep, outcome: Outcome) -> bool:
    """Return whether a trial was done and keeps every constraint."""
    return outcome.figures is not None and all(
        excess <= 0 for excess in excesses(sweep, outcome).values()
    )


def pareto_front(sweep: Sweep, trials: Sequence[Judged]) -> list[int]:
    """Return the numbers of the feasible trials that no other feasible one dominates.

    One dominates another that is at least as good in every objective and better in one. Of trials
    that are alike in all of them every one is on the front.
    """
    found = [(item.number, _losses(sweep, item)) for item in trials if _can_be_best(sweep, item)]
    return [
        number
        for number, losses in found
        if not any(_dominates(other, losses) for _, other in found)
    ]


def best_of(sweep: Sweep, trials: Sequence[Judged]) -> Judged | None:
    """Return the feasible trial that is chosen; None where there is none.

    It is the best by the sweep's `choose`; of those that are alike in it the best by the other
    objectives in their order, then the one with the lowest number.
    """
    order = [sweep.chooses_by, *(name for name in sweep.objectives if name != sweep.chooses_by)]
    able = [item for item in trials if _can_be_best(sweep, item)]
    return min(able, key=lambda item: (*_losses(sweep, item, order), item.number), default=None)


def closest_words(sweep: Sweep, trials: Sequence[Judged]) -> str:
    """Say which trial came closest to being feasible, and what it lacks."""
    if not trials:
        return "no trial has ended"

    def distance(item: Judged) -> tuple[bool, float, int]:
        far = max(excesses(sweep, item.outcome).values(), default=0.0)
        return item.figures is None, far, item.number

    closest = min(trials, key=distance)
    told = closest.outcome.reason
    if closest.figures is not None:
        limits = sweep.constraints.given
        broken = [name for name, far in excesses(sweep, closest.outcome).items() if far > 0]
        told = "; ".join(limit_words(name, closest.figures, limits[name]) for name in broken)
    return f"trial {closest.number} came closest ({closest.words}): {told}"


def limit_words(name: str, figures: Figures, limit: float) -> str:
    """Say a figure beside its limit, such as `2.31 MB, at most 2 MB allowed`."""
    value = figures.of(name)
    if name == "drop":
        return f"the score {moved(value)}, {points(limit)} allowed"
    if name == "score":
        return f"score {value:.4f}, at least {limit:g} asked for"
    if name == "bytes":
        return f"{value / 1e6:.4g} MB, at most {limit / 1e6:.4g} MB allowed"
    if name == "latency_ms":
        return f"{value:.4g} ms, at most {limit:g} ms allowed"
    return f"{value:.4g} times as fast, at least {limit:g} asked for"


def outcome_of(plain: Any) -> Outcome:
    """Return the outcome that `to_plain` wrote."""
    return read_facts(Outcome, plain)


def _can_be_best(sweep: Sweep, item: Judged) -> bool:
    return is_feasible(sweep, item.outcome)


def _losses(sweep: Sweep, item: Judged, order: Sequence[str] | None = None) -> tuple[float, ...]:
    """Return the objectives of a trial, each so that less is better."""
    assert item.figures is not None
    names = sweep.objectives if order is None else order
    return tuple(
        -item.figures.of(name) if BETTER[name] == "maximize" else item.figures.of(name)
        for name in names
    )


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
