"""The gate on attributions: what a score carries of them, and what the budget makes of that.

They are no score of predictions, and yet judged at the same places: after every pass, of the
artifact and on the certification rows. So they travel with the score, among what it keeps of
examples, and every gate sees them without asking for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from compressor.attribution.agreement import (
    SAMPLED,
    agreements,
    judge_agreement,
    require_some,
    sampled_rows,
    uninformed_agreements,
)
from compressor.attribution.occlusion import Question
from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import Score
from compressor.proof import AttributionRecord
from compressor.recipe.budget import AccuracyBudget
from compressor.stored_types import PerExample
from compressor.tasks import Task
from compressor.tasks.hiding import changes_of

KEY = "budget.min_attribution_agreement"
WORDS = "attribution agreement"
_FOUND = "attribution_agreements"  # of the sampled examples, NaN where there is none
_UNINFORMED = "attribution_agreements_uninformed"  # shape (num_examples, num_guesses)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Attributions:
    """Attributions of several examples, one after the other; `ends` is where each one ends.

    `changes`, of the shape of `values`, are how much of the input each piece is.
    """

    values: PerExample[np.float64]
    changes: PerExample[np.float64]
    ends: PerExample[np.int64]

    @classmethod
    def of(cls, questions: Sequence[Question], found: Sequence[Floats]) -> Self:
        """Return the attributions `found` for `questions`."""
        changes = [changes_of(item.example, item.pieces) for item in questions]
        ends = np.cumsum([len(item) for item in found], dtype=np.int64)
        return cls(np.concatenate(found), np.concatenate(changes), ends)

    @property
    def by_example(self) -> list[Floats]:
        """Return those of each example."""
        return np.split(self.values, self.ends[:-1])


def rows_to_explain(split: Dataset, score: Score, *, seed: int) -> NDArray[np.int64]:
    """Return which rows of a split are explained; raises `StepFailed` nowhere but in the gate."""
    units = split.groups if score.units is None else score.units
    return sampled_rows(len(split), SAMPLED[split.name], seed=seed, units=units)


def with_agreement(score: Score, before: Attributions, after: Attributions) -> Score:
    """Return a score that keeps how far `after` agrees with the attributions `before`.

    Raises `StepFailed` where too few examples have an agreement.
    """
    first, second = before.by_example, after.by_example
    found = agreements(first, second)
    require_some(found)
    guessed = uninformed_agreements(first, np.split(before.changes, before.ends[:-1]))
    kept = {**score.kept, _FOUND: found, _UNINFORMED: guessed}
    return dataclasses.replace(score, kept=kept)


def lost_agreement(budget: AccuracyBudget, score: Score) -> float | None:
    """Return how far the mean agreement lies below 1; None where the budget asks for none."""
    if budget.min_attribution_agreement is None:
        return None
    return 1 - float(np.nanmean(score.kept[_FOUND]))


def proof_of_agreement(
    budget: AccuracyBudget, task: Task, score: Score, *, seed: int
) -> AttributionRecord | None:
    """Return what a score proves about attributions; None where the budget asks for none."""
    if budget.min_attribution_agreement is None:
        return None
    return judge_agreement(
        score.kept[_FOUND],
        score.kept[_UNINFORMED],
        min_agreement=budget.min_attribution_agreement,
        confidence=budget.confidence,
        seed=seed,
        explained=task.explains,
    )


def check_explained(budget: AccuracyBudget, task: Task) -> None:
    """Raise `RecipeError` where the budget speaks of attributions and the task has none."""
    if budget.min_attribution_agreement is not None and not task.explains:
        raise RecipeError(
            [f"{KEY}: {task.name} has no attributions: {task.unexplained}; remove it"]
        )
