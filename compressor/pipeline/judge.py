"""What a score has to keep: the metric of the budget, and the recall of what must not be missed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compressor.certificate import Limited, certify_recalls, limits_of
from compressor.data import Dataset
from compressor.errors import BudgetExceeded, RecipeError
from compressor.measurements import Certificate, RecallRecord, Score
from compressor.pipeline.attributions import KEY, WORDS, lost_agreement
from compressor.recipe.budget import MISSED, AccuracyBudget
from compressor.setting_errors import did_you_mean
from compressor.tasks import Findings, Task, find_metric
from compressor.words import few_of

MAX_DROP = "budget.max_drop"
_ROUNDING = 1e-12
_SEVERITY = {"refuted": 0, "inconclusive": 1, "certified": 2}


@dataclass(frozen=True)
class Shortfall:
    """One budget that a score does not keep; `words` say what fell."""

    words: str
    drop: float
    max_drop: float
    key: str

    @property
    def excess(self) -> float:
        """Return how far the drop lies above the budget."""
        return self.drop - self.max_drop


@dataclass(frozen=True)
class Judge:
    """The budget of a run on one split, with what the task needs to judge by it."""

    budget: AccuracyBudget
    task: Task
    split: Dataset
    labels: tuple[str, ...]

    def shortfalls(self, baseline: Score, score: Score) -> list[Shortfall]:
        """Return every budget that `score` does not keep, the worst first."""
        found = list(self._missed(baseline, score))
        found += self._explained(score)
        if not self.budget.holds(baseline, score):
            drop, metric = self.budget.drop(baseline, score), find_metric(score.metric)
            found.append(Shortfall(metric.name, drop, self.budget.max_drop, MAX_DROP))
        return sorted(found, key=lambda item: -item.excess)

    def holds(self, baseline: Score, score: Score) -> bool:
        """Return whether `score` keeps every budget; a NaN never does."""
        return not self.shortfalls(baseline, score)

    def require(
        self,
        step: str,
        baseline: Score,
        score: Score,
        *,
        tried: Sequence[str] = (),
        earlier: tuple[str, float] | None = None,
    ) -> None:
        """Raise `BudgetExceeded` when `step` left a score that does not keep a budget.

        `tried` and `earlier` are told in the error.
        """
        self.budget.gate(step, baseline, score, tried=tried, earlier=earlier)
        worst = next(iter(self.shortfalls(baseline, score)), None)
        if worst is not None:
            raise BudgetExceeded(
                step,
                metric=worst.words,
                drop=worst.drop,
                max_drop=worst.max_drop,
                key=worst.key,
                tried=tried,
            )

    def limited(self, baseline: Score, score: Score) -> dict[tuple[str, str], Limited]:
        """Return what both models found of each kind that has a limit, by key and kind."""
        found: dict[tuple[str, str], Limited] = {}
        for key, limits in self.budget.misses.items():
            labelled = key != MISSED
            kinds = self._findings(baseline, score, labelled=labelled)
            found |= {
                (key, kind): Limited(kinds[kind], limit, only_losses=not labelled)
                for kind, limit in limits_of(limits, list(kinds)).items()
            }
        return found

    def recalls(self, baseline: Score, score: Score, *, seed: int) -> tuple[RecallRecord, ...]:
        """Return what is proven about each kind that has a limit, the worst first."""
        kinds = self.limited(baseline, score)
        if not kinds:
            return ()
        names = {f"{key} {kind}": (key, kind) for key, kind in kinds}
        proofs = certify_recalls(
            {name: kinds[place] for name, place in names.items()},
            confidence=self.budget.confidence,
            seed=seed,
        )
        records = [
            _record(*names[name], kinds[names[name]], proof, self.budget.confidence)
            for name, proof in proofs.items()
        ]
        return tuple(sorted(records, key=lambda item: (_SEVERITY[item.verdict], -item.drop)))

    def _findings(self, baseline: Score, score: Score, *, labelled: bool) -> Mapping[str, Findings]:
        truth = self.split.truth()
        return self.task.findings(baseline, score, truth, self.labels, labelled=labelled)

    def _explained(self, score: Score) -> Iterator[Shortfall]:
        lost, least = lost_agreement(self.budget, score), self.budget.min_attribution_agreement
        if lost is not None and least is not None and not lost <= 1 - least + _ROUNDING:
            yield Shortfall(WORDS, lost, 1 - least, KEY)

    def _missed(self, baseline: Score, score: Score) -> Iterator[Shortfall]:
        for (key, kind), item in self.limited(baseline, score).items():
            drop = share_lost(item.findings)
            if drop > item.max_drop + _ROUNDING:
                yield Shortfall(f"recall of {kind}", drop, item.max_drop, f"budget.{key}")


def share_lost(findings: Findings) -> float:
    """Return how far the share fell that is found; 0 where nothing is there."""
    there = int(findings.there.sum())
    lost = int(findings.before.sum()) - int(findings.after.sum())
    return lost / there if there else 0.0


def check_kinds(budget: AccuracyBudget, task: Task, labels: Sequence[str]) -> None:
    """Raise `RecipeError` where the budget names what the task cannot find."""
    if not budget.misses:
        return
    mistakes = []
    kinds = task.kinds(labels)
    if not kinds:
        raise RecipeError(
            [
                f"budget.{key}: {task.name} with these labels finds nothing that could be missed; "
                f"remove it"
                for key in budget.misses
            ]
        )
    for key, limits in budget.misses.items():
        unknown = [name for name in limits if name not in kinds] if isinstance(limits, dict) else []
        mistakes += [
            f"budget.{key}: the checkpoint knows no {task.finds} '{name}'"
            f"{did_you_mean(name, kinds, noun='names')}"
            for name in unknown
        ]
    if mistakes:
        raise RecipeError(mistakes)


def check_held(budget: AccuracyBudget, task: Task, split: Dataset, labels: Sequence[str]) -> None:
    """Raise `RecipeError` where no row of `split` holds a kind whose recall is to be proven on it.

    What the untouched checkpoint finds, which `max_missed` counts, is not known before it is asked.
    """
    for key, limits in budget.misses.items():
        if key == MISSED:
            continue
        held = task.held(split.truth(), labels)
        absent = [kind for kind in limits_of(limits, list(held)) if not held[kind]]
        if absent:
            there = [kind for kind in held if held[kind]]
            raise RecipeError(
                [
                    f"budget.{key}: no row of data.{split.name} holds {few_of(absent)}, so that "
                    f"nothing could be proven of it; give rows that do, or limit by name those "
                    f"that occur ({few_of(there)}), or accept the missing proof with "
                    f"--allow-inconclusive"
                ]
            )


def _record(
    key: str, kind: str, item: Limited, proof: Certificate | None, confidence: float
) -> RecallRecord:
    findings = item.findings
    return RecallRecord(
        kind=kind,
        budget="max_missed" if key == MISSED else "max_recall_drop",
        there=int(findings.there.sum()),
        before=int(findings.before.sum()),
        after=int(findings.after.sum()),
        num_units=int((findings.there > 0).sum()),
        drop=share_lost(findings),
        upper_bound=1.0 if proof is None else proof.upper_bound,
        lower_bound=0.0 if proof is None else proof.lower_bound,
        verdict="inconclusive" if proof is None else proof.verdict,
        max_drop=item.max_drop,
        confidence=confidence if proof is None else proof.confidence,
        needed_units=None if proof is None else proof.needed_examples,
    )
