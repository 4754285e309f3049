"""One pass on its way through the gate: as the recipe says, and milder where it may repair.

What is milder is the pass's own business (`Pass.milder`) and was settled before the run. The order
of tries is settled here: down the pass's list until one passes, then halfway back up between the
strongest that passed and what failed above it, as long as tries are left. Every try starts from the
model as it was before the pass, is judged on the search split alone, and is a stored step of its
own, so that a stopped repair goes on too.

An error is not a loss of accuracy: a pass that raises for a milder setting stops the run. Only one
so mild that nothing would be removed is passed over: it is the model before the pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from compressor.errors import PassError
from compressor.measurements import PassRecord, PassTry, Score, Size, Verdict
from compressor.passes import NothingToRemove, Pass
from compressor.pipeline.announce import gate_line, minutes_left, most_tries, next_step
from compressor.pipeline.cached_steps import AnyStored, Told
from compressor.pipeline.cached_work import Stages
from compressor.pipeline.certification import compare_predictions
from compressor.pipeline.run_record import AS_WRITTEN, RunLog
from compressor.recipe.recipe import RepairSettings


@dataclass
class _Try(Generic[AnyStored]):
    """One attempt, filled in as far as it came."""

    step: Pass
    change: str
    told: Told = field(default_factory=Told)
    seconds: float = 0.0
    reused: bool = False
    model: AnyStored | None = None
    size: Size | None = None
    score: Score | None = None
    drop: float | None = None
    verdict: Verdict = "failed"

    def record(self, kept: bool) -> PassTry:
        return PassTry(
            settings=self.step.settings,
            change=self.change,
            score_after=None if self.score is None else self.score.value,
            drop=self.drop,
            size=self.size,
            verdict=self.verdict,
            seconds=self.seconds,
            kept=kept,
        )


@dataclass
class _Gate(Generic[AnyStored]):
    """The tries of one pass so far."""

    stages: Stages
    log: RunLog
    position: int
    step: Pass
    before: AnyStored
    baseline: Score
    tries: list[_Try[AnyStored]] = field(default_factory=list)
    kept: _Try[AnyStored] | None = None

    @property
    def name(self) -> str:
        return f"passes[{self.position}] ({self.step.kind})"

    def search(self) -> None:
        """Make the recipe's try, and further ones where the recipe says so."""
        self.attempt(self.step)
        if self.limits is not None:
            self.repair(self.limits)

    @property
    def limits(self) -> RepairSettings | None:
        """Return how far to look for milder settings; None where the first failure is the last."""
        recipe = self.stages.recipe
        return (recipe.repair or RepairSettings()) if recipe.may_repair(self.step) else None

    def repair(self, limits: RepairSettings) -> None:
        """Look for the strongest settings that pass, unless the recipe's own did."""
        if self.kept is not None:
            return
        failed = self.step
        for milder in self.step.milder():
            if self.kept is not None or self.exhausted(limits):
                break
            failed = self.tries[-1].step
            self.announce(milder, limits)
            self.attempt(milder)
        while self.kept is not None and not self.exhausted(limits):
            between = failed.halfway(self.kept.step)
            if between is None:
                break
            self.announce(between, limits)
            attempt = self.attempt(between)
            if attempt is None:
                break
            if attempt.verdict != "passed":
                failed = between

    def exhausted(self, limits: RepairSettings) -> bool:
        # What tries took when they were really made: a run that goes on must stop where the
        # undisturbed one does.
        seconds = sum(attempt.seconds for attempt in self.tries)
        slow = limits.max_minutes is not None and seconds >= 60 * limits.max_minutes
        return slow or len(self.tries) > limits.max_tries

    def attempt(self, step: Pass) -> _Try[AnyStored] | None:
        """Apply `step` to the model before the pass, and judge what it gives.

        Returns None, and leaves no try behind, when a milder step would remove nothing.
        """
        change = describe_change(self.step.settings, step.settings)
        name = self.name if step is self.step else f"{self.name}, {change}"
        attempt = _Try[AnyStored](step, change)
        self.tries.append(attempt)
        self.stages.progress.stage(self.title(change))
        try:
            given = self.stages.run_pass(name, self.position, step, self.before, attempt.told)
        except PassError as error:
            if step is self.step or not isinstance(error.__cause__, NothingToRemove):
                raise
            self.tries.pop()
            parts = ("score", "attributions")
            self.stages.estimate.skipped(name, *(f"{name}: {part}" for part in parts))
            self.stages.progress.result("nothing would be removed: passed over")
            return None
        attempt.seconds, attempt.reused = given.seconds, given.reused
        score = self.stages.score(name, given.model, reference=self.baseline)
        budget = self.stages.recipe.budget
        attempt.model, attempt.size, attempt.score = given.model, given.size, score
        attempt.drop = budget.drop(self.baseline, score)
        passed = self.stages.judge.holds(self.baseline, score)
        attempt.verdict = "passed" if passed else "budget_exceeded"
        if passed:
            self.kept = attempt  # each one is stronger than the one that passed before it
        self.stages.progress.result(gate_line(self.stages.judge, self.baseline, score, given.size))
        return attempt

    def title(self, change: str) -> str:
        """Return what a try is announced as: its number only where there may be several."""
        limits = self.limits
        most = 1 if limits is None else most_tries(self.step, limits)
        if most == 1:
            return self.name
        return f"{self.name}, try {len(self.tries)} of at most {most}: {change}"

    def announce(self, step: Pass, limits: RepairSettings) -> None:
        """Say that a further try follows, and how long tries may go on."""
        change = describe_change(self.step.settings, step.settings)
        number, most = len(self.tries) + 1, most_tries(self.step, limits)
        name = f"{self.name}, {change}"
        self.stages.estimate.expect_again(name, self.name)
        for part in ("score", "attributions"):
            self.stages.estimate.expect_again(f"{name}: {part}", f"{self.name}: {part}")
        spent = sum(attempt.seconds for attempt in self.tries)
        stop = minutes_left(limits, spent)
        self.stages.progress.upcoming(f"try {number} of at most {most}, {change}{stop}")

    def shown(self) -> _Try[AnyStored]:
        """Return the try that stands for the pass: the kept one, a broken one, or the best."""
        if self.kept is not None or self.tries[-1].drop is None:
            return self.kept or self.tries[-1]
        return min(self.tries, key=lambda attempt: attempt.drop or 0.0)

    def record(self) -> PassRecord:
        shown = self.shown()
        return self.log.pass_record(
            self.step.kind,
            shown.record(kept=shown is self.kept),
            [attempt.record(kept=attempt is self.kept) for attempt in self.tries],
            notes=shown.told.notes,
            facts=shown.told.facts,
            reused=shown.reused,
        )


def pass_gate(
    stages: Stages,
    log: RunLog,
    position: int,
    step: Pass,
    before: AnyStored,
    baseline: Score,
) -> AnyStored:
    """Apply a pass to the model `before`, and return what it gave when that passes the gate.

    The record with all tries is in `log` in every case. Raises `BudgetExceeded` when no try is
    within the budget, and whatever the pass raises.
    """
    gate = _Gate(stages, log, position, step, before, baseline)
    earlier = log.costliest_pass()
    try:
        gate.search()
    finally:
        log.passes.append(gate.record())
    shown = gate.shown()
    assert shown.score is not None
    assert shown.model is not None
    search = stages.splits["search"]
    compare_predictions(log, stages.recipe, stages.task, search, shown.score)
    tried = [attempt.change for attempt in gate.tries] if len(gate.tries) > 1 else []
    stages.judge.require(gate.name, baseline, shown.score, tried=tried, earlier=earlier)
    stages.progress.upcoming(next_step(stages.recipe, position))
    return shown.model


def describe_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say how the settings `after` differ, such as `ratio 0.8 -> 0.6`."""
    old, new = _flat(before), _flat(after)
    changes = [
        f"{name} {_shown(old.get(name))} -> {_shown(new.get(name))}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]
    return ", ".join(changes) or AS_WRITTEN


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under names with dots, as `--set` spells them."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
