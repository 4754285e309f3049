from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.certificate import certify_paired
from compressor.measurements import Score
from compressor.starter.provable import (
    INT8_COST,
    PRUNED_COST,
    Judged,
    UsualCost,
    look_forward,
    round_up,
)
from compressor.tasks import Truth, load_task

TASK = load_task("text-classification")
NOTHING = UsualCost(0.0, 0.0, {"cosine": 0.0})


def classifier(
    metric: str, outcomes: NDArray[np.int64], labels: NDArray[np.int64] | None
) -> Judged:
    probabilities = np.full((len(outcomes), 2), 0.1, dtype=np.float32)
    probabilities[np.arange(len(outcomes)), outcomes] = 0.9
    score = Score(metric, 0.9, len(outcomes), outcomes, kept={"probabilities": probabilities})
    return Judged(TASK, ("no", "yes"), score, Truth((), labels))


@pytest.fixture
def nine_in_ten_right() -> Judged:
    labels = np.arange(200) % 2
    outcomes = np.where(np.arange(200) < 180, labels, 1 - labels)
    return classifier("accuracy", outcomes, labels)


@pytest.mark.parametrize(
    ("drop", "budget"),
    [(0.001, 0.0025), (0.01, 0.01), (0.0101, 0.0125), (0.0201, 0.025), (1 / 3, 0.335)],
)
def test_budgets_are_rounded_up_to_numbers_that_people_write(drop: float, budget: float):
    assert round_up(drop) == budget


def test_rows_on_which_nothing_changes_prove_what_clopper_and_pearson_say():
    unlabelled = classifier("agreement", np.arange(60) % 2, None)
    found = look_forward(unlabelled, 60, NOTHING)
    assert found.drop == 0
    assert found.upper_bound == pytest.approx(1 - 0.05 ** (1 / 60))  # 4.9 points


def test_what_is_expected_of_agreement_is_what_nine_draws_in_ten_do_not_exceed():
    """Of 100 predictions 1% change: P(2 or fewer) is 0.92, P(1 or fewer) 0.74 (binomial)."""
    unlabelled = classifier("agreement", np.arange(60) % 2, None)
    assert look_forward(unlabelled, 100, INT8_COST).drop == pytest.approx(0.02)


@pytest.mark.parametrize("rows", [150, 872, 4000])
def test_a_budget_that_is_foreseen_is_certified_in_most_draws(nine_in_ten_right: Judged, rows: int):
    """Simulated by the pipeline's own test: 3% of the predictions change, 0.6 points are lost."""
    budget = look_forward(nine_in_ten_right, rows, PRUNED_COST).budget
    random = np.random.default_rng(0)
    draws = random.random((100, rows))
    lost, won = draws < 0.018, (draws >= 0.018) & (draws < 0.03)
    verdicts = [
        certify_paired(~gain, ~loss, max_drop=budget, confidence=0.95).verdict
        for loss, gain in zip(lost, won, strict=True)
    ]
    assert verdicts.count("certified") >= 80


def test_more_rows_prove_less_to_be_lost(nine_in_ten_right: Judged):
    budgets = [look_forward(nine_in_ten_right, rows, INT8_COST).budget for rows in (100, 1000)]
    assert budgets[0] > 2 * budgets[1]


def test_where_one_class_is_nearly_all_a_guess_loses_little():
    """19 rows in 20 are of one class, and the checkpoint knows half of the others."""
    labels = (np.arange(400) % 20 == 0).astype(np.int64)
    outcomes = (np.arange(400) % 40 == 0).astype(np.int64)
    judged = classifier("accuracy", outcomes, labels)
    assert judged.best_guess.who == "a model that predicts 'no' for everything"
    assert look_forward(judged, 400, INT8_COST).guess_drop < 0.025  # it knows 10 rows less of 400
