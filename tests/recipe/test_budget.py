"""A budget is measured against the baseline, cumulatively, and never finer than one example."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from compressor.errors import BudgetExceeded
from compressor.measurements import Score
from compressor.recipe.budget import AccuracyBudget


def score(value: float) -> Score:
    return Score("accuracy", value, 1000, np.zeros(1000, dtype=np.int64))


def test_a_drop_of_exactly_the_budget_passes():
    AccuracyBudget(max_drop=0.01).gate("step", score(0.9), score(0.89))


def test_a_drop_beyond_the_budget_says_which_step_and_by_how_much():
    with pytest.raises(BudgetExceeded) as caught:
        AccuracyBudget(max_drop=0.01).gate("passes[1]", score(0.9), score(0.87))
    assert caught.value.step == "passes[1]"
    assert caught.value.drop == pytest.approx(0.03)
    assert caught.value.max_drop == 0.01
    assert caught.value.exit_code == 5


def test_a_better_score_passes_a_budget_of_zero():
    AccuracyBudget(max_drop=0.0).gate("step", score(0.9), score(0.91))


def test_a_score_that_is_not_a_number_fails_the_gate():
    with pytest.raises(BudgetExceeded):
        AccuracyBudget(max_drop=0.5).gate("step", score(0.9), score(float("nan")))


def test_a_budget_finer_than_one_example_needs_more_rows():
    mistake = AccuracyBudget(max_drop=0.001).resolution_mistake(500)
    assert mistake is not None
    assert "at least 1,000 rows" in mistake


def test_a_budget_of_one_example_or_of_nothing_is_accepted():
    assert AccuracyBudget(max_drop=0.002).resolution_mistake(500) is None
    assert AccuracyBudget(max_drop=0.0).resolution_mistake(500) is None


@pytest.mark.parametrize("max_drop", [-0.1, 1.0, "0.1", True])
def test_a_budget_is_a_fraction_below_one(max_drop: object):
    with pytest.raises(ValidationError):
        AccuracyBudget(max_drop=max_drop)  # type: ignore[arg-type]


def test_a_budget_for_slices_needs_slices():
    with pytest.raises(ValidationError, match="there are no slices"):
        AccuracyBudget(max_drop=0.01, max_slice_drop=0.05)
    with pytest.raises(ValidationError, match="names label twice"):
        AccuracyBudget(max_drop=0.01, slices=("label", "label"))
    assert AccuracyBudget(max_drop=0.01, slices=("label", "source")).slice_columns == ("source",)


@pytest.mark.parametrize("confidence", [0.5, 0.4, 1.0])
def test_a_confidence_that_no_certificate_can_have_is_refused(confidence: float):
    with pytest.raises(ValidationError, match=r"greater than 0\.5|less than 1"):
        AccuracyBudget(max_drop=0.01, confidence=confidence)


def test_a_budget_of_next_to_nothing_is_refused_like_any_that_is_too_fine():
    mistake = AccuracyBudget(max_drop=1e-320).resolution_mistake(100)
    assert mistake is not None
    assert "finer than one of the 100 examples" in mistake
