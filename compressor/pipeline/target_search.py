"""A goal in place of a fixed fraction: the search for the mildest way there within the budget.

The fraction that the recipe writes is the most that may go. It is searched on a ladder that is
fixed before the run, the eighths of that fraction; on its lowest rung the pass is left out. Each
candidate goes through the pass, all later
ones and the export, is judged after each on the search split alone, and every step of it is stored,
so that a stopped search goes on and the accepted candidate is not made twice.

A candidate is settled when a gate refuses it or when it reaches the goal. Both become true on the
way up the ladder and stay so, as far as more compression never gains accuracy; then bisection finds
the first rung that is settled with at most four candidates. If its gates hold, it is the mildest
way to the goal; if one failed, no rung does both, because none below it reaches the goal. For the
strongest compression the rung below the first refused one is the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from compressor.errors import PassError, TargetMissed
from compressor.measurements import PassRecord, PassTry, Score, Size, TargetRecord, Verdict
from compressor.passes import NothingToRemove, OnnxPass, Pass, TorchPass
from compressor.pipeline.announce import gate_line, next_step
from compressor.pipeline.cached_steps import (
    AnyStored,
    PassResult,
    StoredCheckpoint,
    StoredGraph,
    Told,
)
from compressor.pipeline.cached_work import Stages
from compressor.pipeline.certification import compare_predictions
from compressor.pipeline.gates import describe_change
from compressor.pipeline.judge import MAX_DROP
from compressor.pipeline.run_record import RunLog
from compressor.recipe.budget import CompressionTarget
from compressor.recipe.recipe import BenchmarkSettings
from compressor.words import counted, points

LEFT_OUT = "left out"
RUNGS = 8  # the finest step is an eighth of the recipe's fraction


@dataclass(frozen=True)
class Goal:
    """The goal of a recipe in words, and whether a figure reaches it.

    A figure is the size of the ONNX file in MB (10^6 bytes), for `speedup` how many times faster.
    """

    target: CompressionTarget
    timing: BenchmarkSettings  # the one shape on the one provider that `speedup` is measured on
    counts_tokens: bool = True  # so that a number of tokens means something

    @classmethod
    def of(
        cls, target: CompressionTarget, benchmark: BenchmarkSettings, *, counts_tokens: bool = True
    ) -> Goal:
        """Return the goal of a recipe with these settings."""
        own = {
            "providers": benchmark.providers[:1],
            "batch_sizes": (target.batch_size or 1,),
            "sequence_lengths": (target.sequence_length or benchmark.sequence_lengths[0],),
        }
        return cls(target, benchmark.model_copy(update=own), counts_tokens)

    @property
    def wanted(self) -> float | None:
        """Return the figure to reach; None for the strongest compression."""
        return self.target.max_megabytes or self.target.speedup

    def reached_by(self, figure: float) -> bool:
        """Tell whether `figure` reaches the goal, which the strongest compression never is."""
        if self.target.max_megabytes is not None:
            return figure <= self.target.max_megabytes
        return self.target.speedup is not None and figure >= self.target.speedup

    def figure(self, figure: float) -> str:
        """Return a figure with its unit."""
        unit = "times as fast as the baseline" if self.target.speedup else "MB"
        return f"{figure:.4g} {unit}"

    def __str__(self) -> str:
        if self.target.max_megabytes is not None:
            return f"at most {self.target.max_megabytes:g} MB"
        if self.target.speedup is not None:
            timing = self.timing
            tokens = (
                f", {counted(timing.sequence_lengths[0], 'token')}" if self.counts_tokens else ""
            )
            return (
                f"at least {self.target.speedup:g} times as fast as the baseline at batch "
                f"{timing.batch_sizes[0]}{tokens} on {timing.providers[0]}"
            )
        return "the strongest compression within the budget"


@dataclass
class _Candidate:
    """One rung of the ladder on its way to the graph that would ship, as far as it came."""

    rung: int
    step: TorchPass
    change: str
    told: Told = field(default_factory=Told)
    made: PassResult[StoredCheckpoint] | None = None  # None too where the pass is left out
    model: StoredCheckpoint | None = None  # what the searched pass gave, or what was before it
    score: Score | None = None  # of that
    last: Score | None = None  # of the last model that was judged
    refused: str | None = None  # which gate failed, and by how much
    figure: float | None = None  # of the graph that would ship; None when a gate failed

    @property
    def verdict(self) -> Verdict:
        if self.refused is not None:
            return "budget_exceeded"
        return "failed" if self.figure is None else "passed"


@dataclass
class _Search:
    """The candidates so far; `accepted` is the result, once there is one."""

    stages: Stages
    log: RunLog
    position: int
    step: TorchPass
    goal: Goal
    before: StoredCheckpoint
    baseline: Score
    baseline_graph: StoredGraph
    tried: list[_Candidate] = field(default_factory=list)
    accepted: _Candidate | None = None

    def run(self) -> None:
        """Find the first rung that is settled, and accept what the goal makes of it."""
        low, high = -1, RUNGS + 1  # every rung up to `low` is not settled, every one from `high` is
        while high - low > 1:
            middle = (low + high) // 2
            most = len(self.tried) + math.ceil(math.log2(high - low))
            if self.is_settled(self.attempt(middle, most)):
                high = middle
            else:
                low = middle
        wanted = low if self.goal.wanted is None else high
        of_it = [item for item in self.tried if item.rung == wanted and item.verdict == "passed"]
        self.accepted = of_it[0] if of_it else None
        self.stages.estimate.searching(0)

    def is_settled(self, candidate: _Candidate) -> bool:
        return candidate.figure is None or self.goal.reached_by(candidate.figure)

    def attempt(self, rung: int, most: int) -> _Candidate:
        """Take one candidate, of `most` in all, as far as it comes."""
        step = self.step.at_share(rung / RUNGS)
        assert step is not None, "the recipe was checked"
        change = describe_change(self.step.settings, step.settings) if rung else LEFT_OUT
        candidate = _Candidate(rung, step, change)
        self.tried.append(candidate)
        number, progress = len(self.tried), self.stages.progress
        title = f"passes[{self.position}] ({step.kind}), try {number} of at most {most}: {change}"
        self.stages.estimate.searching(most - number + 1)
        progress.stage(title)
        self.follow(candidate)
        progress.result(self.outcome(candidate))
        return candidate

    def follow(self, candidate: _Candidate) -> None:
        """Apply the pass, all later ones and the export; stop at the first gate that fails."""
        stages, change = self.stages, candidate.change
        model = self.before
        for position, step in enumerate(stages.recipe.passes):
            if position < self.position or not isinstance(step, TorchPass):
                continue
            if position == self.position:
                model = self.apply_searched(candidate)
            else:
                model = self.apply(candidate, position, step, model).model
            if candidate.refused is not None:
                return
        exported = stages.export(f"export, {change}", model)
        graph, size = exported.graph, exported.size
        stages.parity(f"parity, {change}", model, graph)
        for position, step in enumerate(stages.recipe.passes):
            if isinstance(step, OnnxPass):
                changed = self.apply(candidate, position, step, graph)
                if candidate.refused is not None:
                    return
                graph, size = changed.model, changed.size
        score = stages.score(f"graph, {change}", graph, reference=self.baseline)
        self.judge(candidate, "export", score, size)
        if candidate.refused is None:
            candidate.figure = self.measure(graph, size, change)

    def apply_searched(self, candidate: _Candidate) -> StoredCheckpoint:
        """Apply the searched pass, unless it would remove nothing, and judge what it gave."""
        model = self.before
        if candidate.rung > 0:
            try:
                made = self.apply(candidate, self.position, candidate.step, model)
            except PassError as error:
                if not isinstance(error.__cause__, NothingToRemove):
                    raise
                candidate.told.notes.append("nothing would be removed, so the pass is left out")
            else:
                candidate.made, candidate.model, candidate.score = made, made.model, candidate.last
                return made.model
        name = self.name_of(self.position, self.step, candidate)
        candidate.model = model
        candidate.score = self.stages.score(name, model, reference=self.baseline)
        place = f"passes[{self.position}] ({self.step.kind})"
        self.judge(candidate, place, candidate.score, None)
        return model

    def apply(
        self, candidate: _Candidate, position: int, step: Pass, before: AnyStored
    ) -> PassResult[AnyStored]:
        """Apply one pass and judge what it gave."""
        name = self.name_of(position, step, candidate)
        told = candidate.told if position == self.position else Told()
        made: Any = self.stages.run_pass(name, position, step, before, told)
        score = self.stages.score(name, made.model, reference=self.baseline)
        self.judge(candidate, f"passes[{position}] ({step.kind})", score, made.size)
        given: PassResult[AnyStored] = made
        return given

    def judge(self, candidate: _Candidate, place: str, score: Score, size: Size | None) -> None:
        judge = self.stages.judge
        candidate.last = score
        found = gate_line(judge, self.baseline, score, size)
        self.stages.progress.result(f"{place}: {found}")
        if short := judge.shortfalls(self.baseline, score):
            drop, allowed = points(short[0].drop), points(short[0].max_drop)
            of = f" of {short[0].words}" if short[0].key != MAX_DROP else ""
            candidate.refused = f"{place} lost {drop}{of}, the budget allows {allowed}"

    def measure(self, graph: StoredGraph, size: Size, change: str) -> float:
        """Return the figure of a graph that the goal speaks of.

        A speed-up is that of CPU times where one thread of the CPU is timed, otherwise of wall
        times; one that a busy machine leaves open raises `EnvironmentMismatch`.
        """
        if self.goal.target.speedup is None:
            return size.bytes_on_disk / 1e6
        name = f"benchmark, {change}"
        ends = (self.baseline_graph, graph)
        timed = self.stages.time(name, self.goal.timing, *ends, to_choose=True)
        median = {item.model: item.deciding_ms for item in timed}
        return median["baseline"] / median["final"]

    def name_of(self, position: int, step: Pass, candidate: _Candidate) -> str:
        return f"passes[{position}] ({step.kind}), {candidate.change}"

    def outcome(self, candidate: _Candidate) -> str:
        """Say what became of a candidate, such as `ratio 0.8 -> 0.4: 9.1 MB, goal ...`."""
        if candidate.refused is not None:
            return f"{candidate.change}: {candidate.refused}"
        if candidate.figure is None:
            return candidate.change  # it raised, and the error says the rest
        return f"{candidate.change}: {self.goal.figure(candidate.figure)}, goal {self.goal}"

    def best(self) -> _Candidate | None:
        """Return the accepted candidate, or the strongest one within the budget."""
        within = [item for item in self.tried if item.verdict == "passed"]
        return self.accepted or max(within, key=lambda item: item.rung, default=None)

    def shown(self) -> _Candidate:
        """Return the candidate that stands for the pass: a broken one, the best, or the mildest."""
        if self.tried[-1].verdict == "failed":
            return self.tried[-1]
        return self.best() or min(self.tried, key=lambda item: item.rung)

    def record(self) -> PassRecord:
        shown = self.shown()
        return self.log.pass_record(
            self.step.kind,
            self.record_try(shown),
            [self.record_try(item) for item in self.tried],
            notes=shown.told.notes,
            facts=shown.told.facts,
            reused=shown.made is not None and shown.made.reused,
        )

    def record_try(self, item: _Candidate) -> PassTry:
        budget = self.stages.recipe.budget
        return PassTry(
            settings=item.step.settings,
            change=self.outcome(item),
            score_after=None if item.score is None else item.score.value,
            drop=None if item.score is None else budget.drop(self.baseline, item.score),
            size=None if item.made is None else item.made.size,
            verdict=item.verdict,
            seconds=0.0 if item.made is None else item.made.seconds,
            kept=item is self.accepted,
        )

    def target_record(self) -> TargetRecord:
        best = self.best()
        return TargetRecord(
            kind=self.goal.target.kind,
            goal=str(self.goal),
            wanted=self.goal.wanted,
            reached=None if best is None else best.figure,
            met=self.accepted is not None,
            position=self.position,
            share=None if best is None else best.rung / RUNGS,
        )

    def missed(self) -> TargetMissed:
        """Return the error that says how far the search came."""
        best, shown = self.best(), self.shown()
        budget = self.stages.recipe.budget
        assert shown.last is not None
        advice = "ask for less, raise budget.max_drop, or let the passes recover by longer training"
        if best is not None and best.rung == RUNGS:
            advice = f"ask for less, or raise the fraction in passes[{self.position}]"
        return TargetMissed(
            f"passes[{self.position}] ({self.step.kind})",
            goal=str(self.goal),
            best=None if best is None else self.outcome(best).partition(", goal ")[0],
            advice=advice,
            metric=shown.last.metric,
            drop=budget.drop(self.baseline, shown.last),
            max_drop=budget.max_drop,
            tried=[self.outcome(item) for item in self.tried],
        )


def search_fraction(
    stages: Stages,
    log: RunLog,
    position: int,
    before: StoredCheckpoint,
    baseline: Score,
    baseline_graph: StoredGraph,
) -> StoredCheckpoint:
    """Return what the pass at `position` gives with the fraction that the recipe's target asks for.

    The record of the pass with all candidates, and that of the target, are in `log` in every case.
    Raises `TargetMissed` when no candidate reaches the goal within the budget, and whatever a pass
    or the export raises.
    """
    recipe = stages.recipe
    step, target = recipe.passes[position], recipe.budget.target
    assert isinstance(step, TorchPass)
    assert target is not None
    goal = Goal.of(target, recipe.benchmark, counts_tokens=stages.task.reads_tokens)
    search = _Search(stages, log, position, step, goal, before, baseline, baseline_graph)
    try:
        search.run()
    finally:
        record = search.record()
        log.passes.append(record)
        log.target = search.target_record()
    accepted = search.accepted
    shown = search.shown()
    assert shown.last is not None
    compare_predictions(log, recipe, stages.task, stages.splits["search"], shown.last)
    if accepted is None:
        raise search.missed()
    assert accepted.model is not None
    stages.progress.upcoming(next_step(recipe, position))
    return accepted.model
