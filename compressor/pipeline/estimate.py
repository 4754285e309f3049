"""How long a run still takes, from what its steps so far took.

Every step of a run is known before it begins. What one costs is some amount of a unit, such as rows
that a model reads, and the first step that took a unit tells what it costs here and now: until then
a few rows of the first batch do. An estimate is rough and says so in its rounding. Where a step's
cost cannot be told, nor can that of the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch

from compressor.attribution.agreement import SAMPLED
from compressor.attribution.occlusion import MOST_PIECES
from compressor.passes import OnnxPass, Pass, TorchPass
from compressor.progress import Advance, Progress, Remaining
from compressor.recipe.recipe import Recipe
from compressor.tasks.hiding import CELLS

# A row read by: the untouched checkpoint, a later PyTorch model, a graph. And whole steps.
Unit = Literal[
    "untouched row", "torch row", "graph row",
    "reading", "export", "parity", "flops", "artifact", "checkpoint", "seal",
]  # fmt: skip

# Of PyTorch's time for a row, what ONNX Runtime takes before that was measured, and what a row of
# as many tokens takes when it is timed: nothing is tokenized or padded then.
_GRAPH_SHARE = 0.4
_TIMED_BASELINE, _TIMED_GRAPH = 0.4, 0.7
_THREADS_GAIN = 0.7  # t threads are as fast as t to this power
_MAIN_BAR = 0.5  # a bar that stands for this much of a step tells what the step has left
_TOLD_FROM = 0.02  # of a bar, before which its pace tells nothing
_CANDIDATES = 4  # of a search, at most

# What whole steps take where none was measured: seconds, and rows of the untouched checkpoint.
_PRIORS: Mapping[Unit, tuple[float, float]] = {
    "reading": (1.0, 60),
    "export": (8.0, 100),
    "parity": (1.0, 120),
    "flops": (0.6, 0),
    "artifact": (1.0, 0),
    "checkpoint": (0.5, 0),
    "seal": (1.5, 0),
}


@dataclass(frozen=True)
class Pace:
    """What the first batches of the untouched checkpoint tell: seconds and tokens of a row."""

    seconds: float
    tokens: float | None  # None for images


@dataclass(frozen=True)
class Cost:
    """What a step takes: so many of a unit, and seconds that depend on none."""

    unit: Unit
    amount: float = 1.0
    seconds: float = 0.0
    teaches: bool = True  # whether what it takes tells what its unit costs


@dataclass
class Estimate:
    """The steps that are still to come, and what each is expected to take."""

    clock: Callable[[], float] = time.monotonic
    costs: dict[str, tuple[Cost, ...] | None] = field(default_factory=dict)
    rates: dict[Unit, float] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)  # seconds of the steps that are done
    _now: str | None = None
    _since: float = 0.0
    _bars: list[_Bar] = field(default_factory=list)
    _search: _Search | None = None

    def take(self, planned: Estimate) -> None:
        """Take over the steps of `planned`, and what it knows of their cost."""
        self.costs, self.rates, self._search = planned.costs, planned.rates, planned._search

    def expect(self, name: str, *costs: Cost) -> None:
        """Add a step to those that are to come."""
        self.costs[name] = costs

    def expect_unknown(self, name: str) -> None:
        """Add a step of which nobody can tell how long it takes."""
        self.costs[name] = None

    def expect_again(self, name: str, like: str) -> None:
        """Add a step that is another try of the step `like`, which is done."""
        if like in self.taken:
            self.costs[name] = (Cost("seal", 0, self.taken[like], teaches=False),)
        elif like in self.costs:
            self.costs[name] = self.costs[like]

    def started(self, name: str) -> None:
        """Take note that a step begins."""
        self._now, self._since = name, self.clock()

    def finished(self, name: str, seconds: float, *, measured: bool = True) -> None:
        """Take note that a step is done; `measured` tells whether `seconds` are its own."""
        costs = self.costs.pop(name, None)
        self._now = None
        if not measured:
            return
        self.taken[name] = seconds
        if costs and len(costs) == 1 and costs[0].teaches and costs[0].amount > 0:
            self.rates[costs[0].unit] = seconds / costs[0].amount

    def skipped(self, *names: str) -> None:
        """Take note that steps will not be done."""
        for name in names:
            self.costs.pop(name, None)

    def searching(self, left: int) -> None:
        """Take note that a search tries up to `left` further candidates, from now on."""
        if self._search is None:
            return
        self._search.next_candidate(left, self.clock())

    def remaining(self) -> float | None:
        """Return the seconds that the run has left; None where nobody can tell."""
        if self.rate("untouched row") is None:
            return None
        total = 0.0
        if self._search is not None:
            total += self._search.remaining(self)
        # A copy: a display asks from a thread of its own, while the run adds and removes steps.
        for name, costs in self.costs.copy().items():
            seconds = self.price(costs)
            if name == self._now and (self._search is None or name in self.costs):
                seconds = self._left_of_step(seconds)
            if seconds is None:
                return None
            total += seconds
        if self._now is not None and self._now not in self.costs and self._search is None:
            total += self._left_of_step(self.taken.get(self._now)) or 0.0
        return total

    def price(self, costs: tuple[Cost, ...] | None) -> float | None:
        """Return the seconds that a step takes in all."""
        if costs is None:
            return None
        total = 0.0
        for cost in costs:
            rate = self.rate(cost.unit)
            if rate is None:
                return None
            total += cost.amount * rate + cost.seconds
        return total

    def rate(self, unit: Unit) -> float | None:
        """Return the seconds of one of a unit, measured or derived; None before anything is."""
        if unit in self.rates:
            return self.rates[unit]
        row = self.rates.get("untouched row")
        if row is None or unit == "untouched row":
            return row
        if unit == "torch row":
            return row
        if unit == "graph row":
            return _GRAPH_SHARE * (self.rate("torch row") or row)
        seconds, rows = _PRIORS[unit]
        return seconds + rows * row

    def _left_of_step(self, expected: float | None) -> float | None:
        """Return what the step under way has left, by its bar where that stands for most of it."""
        so_far = self.clock() - self._since
        bar = next(reversed(self._bars.copy()), None)
        told = None if bar is None else bar.remaining(self.clock())
        if bar is None or told is None:
            return None if expected is None else max(expected - so_far, 0.1 * expected)
        left, whole = told
        if expected is None or whole >= _MAIN_BAR * expected:
            return left
        return max(left, expected - so_far, 0.05 * expected)

    @contextmanager
    def watched(self, total: int | None) -> Iterator[Callable[[int], None]]:
        """Follow a bar of `total` units for the length of a block."""
        bar = _Bar(total, self.clock())
        self._bars.append(bar)
        try:
            yield bar.advance
        finally:
            self._bars.remove(bar)


@dataclass
class _Bar:
    total: int | None
    since: float
    done: int = 0

    def advance(self, amount: int) -> None:
        self.done += amount

    def remaining(self, now: float) -> tuple[float, float] | None:
        """Return the seconds that are left of all of the bar's; None while nothing tells."""
        if not self.total or self.done < max(1, _TOLD_FROM * self.total):
            return None
        whole = (now - self.since) * self.total / self.done
        return max(0.0, whole - (now - self.since)), whole


@dataclass
class _Search:
    """The candidates of a target: each goes through several steps."""

    steps: tuple[tuple[Cost, ...] | None, ...]
    left: int = _CANDIDATES
    since: float | None = None
    took: list[float] = field(default_factory=list)

    def next_candidate(self, left: int, now: float) -> None:
        if self.since is not None:
            self.took.append(now - self.since)
        self.left, self.since = left, now if left else None

    def remaining(self, estimate: Estimate) -> float:
        prices = [estimate.price(costs) for costs in self.steps]
        one = sum(self.took) / len(self.took) if self.took else sum(it or 0.0 for it in prices)
        under_way = 0.0 if self.since is None else min(one, estimate.clock() - self.since)
        return max(0.0, self.left * one - under_way)


def plan_of(
    recipe: Recipe,
    num_rows: Mapping[str, int],
    pace: Pace | None,
    *,
    threads: int,
    clock: Callable[[], float] = time.monotonic,
) -> Estimate:
    """Return every step of a run by the name under which it is stored, with what it may take."""
    found = Estimate(clock)
    if pace is not None:
        found.rates["untouched row"] = pace.seconds
    judged = num_rows["search"]
    found.expect("baseline: reading", Cost("reading"))
    found.expect("baseline: score", Cost("untouched row", judged))
    explained = _Explained.of(recipe, num_rows, pace)
    explained.expect(found, "baseline: attributions", "untouched row", "search")
    found.expect("baseline: export", Cost("export"))
    found.expect("baseline: parity", Cost("parity"))
    found.expect("baseline: flops", Cost("flops"))
    steps = list(enumerate(recipe.passes))
    if recipe.searched_pass is None:
        for position, step in steps:
            if isinstance(step, TorchPass):
                _expect_pass(found, position, step, num_rows, explained)
        if not any(isinstance(step, TorchPass) for _, step in steps):
            found.expect("checkpoint", Cost("checkpoint"))
        found.expect("export", Cost("export"))
        found.expect("parity", Cost("parity"))
        for position, step in steps:
            if isinstance(step, OnnxPass):
                _expect_pass(found, position, step, num_rows, explained)
    else:
        found._search = _search_of(recipe, num_rows, explained)
        for position, step in steps[: recipe.searched_pass]:
            if isinstance(step, TorchPass):
                _expect_pass(found, position, step, num_rows, explained)
    found.expect("artifact", Cost("artifact"))
    found.expect("artifact: score", Cost("graph row", judged))
    explained.expect(found, "artifact: attributions", "graph row", "search")
    found.expect("artifact: flops", Cost("flops"))
    if "certification" in num_rows:
        rows = num_rows["certification"]
        found.expect("certification: score of the baseline", Cost("untouched row", rows))
        found.expect("certification: score of the artifact", Cost("graph row", rows))
        own = "certification: attributions of the"
        explained.expect(found, f"{own} baseline", "untouched row", "certification")
        explained.expect(found, f"{own} artifact", "graph row", "certification")
    for provider in recipe.benchmark.providers:
        timed = _timed_rows(recipe, pace, threads)
        found.expect(
            f"benchmark on {provider}",
            Cost("untouched row", _TIMED_BASELINE * timed, 1.5, teaches=False),
            Cost("graph row", _TIMED_GRAPH * timed, teaches=False),
        )
    if recipe.benchmark.runtimes:
        timed = _timed_rows(recipe, pace, threads)
        found.expect("runtimes", Cost("graph row", 2 * _TIMED_GRAPH * timed, teaches=False))
    found.expect("seal", Cost("seal"))
    return found


def pass_name(position: int, step: Pass) -> str:
    """Return the name of a pass among the steps of a run, such as `passes[0] (finetune)`."""
    return f"passes[{position}] ({step.kind})"


@dataclass(frozen=True)
class _Explained:
    """What attributions of a split take: a row for each piece of each example that is drawn."""

    rows: Mapping[str, float]

    @classmethod
    def of(cls, recipe: Recipe, num_rows: Mapping[str, int], pace: Pace | None) -> _Explained:
        if recipe.budget.min_attribution_agreement is None:
            return cls({})
        tokens = None if pace is None else pace.tokens
        pieces = CELLS * CELLS if tokens is None else min(tokens, MOST_PIECES)
        return cls(
            {
                name: min(num_rows.get(name, 0), most) * (pieces + 1)
                for name, most in SAMPLED.items()
            }
        )

    def expect(self, estimate: Estimate, name: str, unit: Unit, split: str) -> None:
        if self.rows:
            estimate.expect(name, Cost(unit, self.rows[split], teaches=False))


def _expect_pass(
    estimate: Estimate,
    position: int,
    step: Pass,
    num_rows: Mapping[str, int],
    explained: _Explained,
) -> None:
    name, effort = pass_name(position, step), step.effort(num_rows)
    if effort is None:
        estimate.expect_unknown(name)
    else:
        estimate.expect(name, Cost("untouched row", effort.rows, effort.seconds, teaches=False))
    unit: Unit = "torch row" if isinstance(step, TorchPass) else "graph row"
    estimate.expect(f"{name}: score", Cost(unit, num_rows["search"]))
    explained.expect(estimate, f"{name}: attributions", unit, "search")


def _search_of(recipe: Recipe, num_rows: Mapping[str, int], explained: _Explained) -> _Search:
    whole = Estimate()
    for position, step in enumerate(recipe.passes):
        assert recipe.searched_pass is not None
        if isinstance(step, OnnxPass) or position >= recipe.searched_pass:
            _expect_pass(whole, position, step, num_rows, explained)
    whole.expect("export", Cost("export"))
    whole.expect("parity", Cost("parity"))
    return _Search(tuple(whole.costs.values()))


def _timed_rows(recipe: Recipe, pace: Pace | None, threads: int) -> float:
    """Return how many rows of the usual length a benchmark reads with each model."""
    timed, usual = recipe.benchmark, None if pace is None else pace.tokens
    lengths = [1.0] if usual is None else [length / usual for length in timed.sequence_lengths]
    runs = timed.warmup_runs + timed.num_runs
    slower = math.pow(torch.get_num_threads() / threads, _THREADS_GAIN)
    return sum(timed.batch_sizes) * sum(lengths) * runs * slower


@dataclass(frozen=True)
class WatchedProgress:
    """A `Progress` that also tells an estimate how far each bar is."""

    shown: Progress
    estimate: Estimate

    def stage(self, title: str) -> None:
        """Pass the announcement on."""
        self.shown.stage(title)

    def result(self, text: str) -> None:
        """Pass the result on."""
        self.shown.result(text)

    def upcoming(self, text: str) -> None:
        """Pass on what comes next."""
        self.shown.upcoming(text)

    @contextmanager
    def whole(self, remaining: Remaining) -> Iterator[None]:
        """Pass the whole run on."""
        with self.shown.whole(remaining):
            yield

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        """Open the bar, and count with it."""
        with self.estimate.watched(total) as count, self.shown.bar(description, total) as move:

            def advance(amount: int = 1, detail: str = "") -> None:
                count(amount)
                move(amount, detail)

            yield advance
