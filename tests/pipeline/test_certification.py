"""A budget for slices fails a run only on proof, and only where the recipe gives one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compressor.errors import BudgetExceeded, StepFailed
from compressor.measurements import Certification, Score, SliceRecord
from compressor.pipeline.certification import gate_slices
from compressor.pipeline.run_record import RunLog
from compressor.recipe.budget import AccuracyBudget


def log_with(*verdicts: Any) -> RunLog:
    log = RunLog({}, "recipe.yaml", 0.01, {}, "model")
    log.metric = "accuracy"
    log.slices = tuple(
        SliceRecord(f"label = {index}", 100, 0.05, 0.1, 0.02, verdict, 0.01, 0.95, 5, 0, None)
        for index, verdict in enumerate(verdicts)
    )
    return log


BUDGET = AccuracyBudget(max_drop=0.01, slices=("label",), max_slice_drop=0.02)


def test_a_refuted_slice_fails_the_run():
    with pytest.raises(
        BudgetExceeded, match=r"slice label = 0: .*raise budget.max_slice_drop"
    ) as e:
        gate_slices(log_with("refuted", "certified"), BUDGET)
    assert (e.value.exit_code, e.value.drop, e.value.max_drop) == (5, 0.05, 0.02)


def test_a_slice_that_is_too_small_to_tell_fails_nothing():
    gate_slices(log_with("inconclusive", "certified"), BUDGET)
    gate_slices(log_with(), BUDGET)


def test_without_a_budget_of_their_own_slices_only_inform():
    gate_slices(log_with("refuted"), AccuracyBudget(max_drop=0.01, slices=("label",)))


def certified_by(error: Exception, monkeypatch: pytest.MonkeyPatch) -> RunLog:
    """Return the log of a run whose certificate ends in `error`."""

    def fail(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr("compressor.pipeline.run_record.certify_scores", fail)
    log, score = log_with(), Score("f1_macro", 1.0, 2, np.array([1, 1]))
    log.certification = Certification(score, score, 0.0)
    log.certify(np.array([1, 1]), (), "print", 0.95, 0)
    return log


def test_rows_that_allow_no_bound_are_told_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    log = certified_by(StepFailed("all are class 1; give examples of every class"), monkeypatch)
    assert log.missing["certificate"] == "all are class 1; give examples of every class"


def test_a_bug_in_the_proof_is_not_taken_for_rows_that_prove_nothing(
    monkeypatch: pytest.MonkeyPatch,
):
    with pytest.raises(ValueError, match="operands could not be broadcast"):
        certified_by(ValueError("operands could not be broadcast together"), monkeypatch)
