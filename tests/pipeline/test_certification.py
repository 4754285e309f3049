"""A budget for slices fails a run only on proof, and only where the recipe gives one."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.budget import AccuracyBudget
from compressor.errors import BudgetExceeded
from compressor.measurements import SliceRecord
from compressor.pipeline.certification import gate_slices
from compressor.pipeline.log import RunLog


def log_with(*verdicts: Any) -> RunLog:
    log = RunLog({}, "recipe.yaml", 0.01, {}, "model")
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
