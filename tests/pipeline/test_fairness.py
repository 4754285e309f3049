"""Error rates of groups are Fairlearn's, and a gap that is proven to be too large ends a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from compressor.data import Dataset
from compressor.errors import BudgetExceeded, RecipeError
from compressor.measurements import GapRecord, Score
from compressor.pipeline.certification import gate_gaps
from compressor.pipeline.fairness import judge_gaps
from compressor.pipeline.slices import slice_masks
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.recipe import load_recipe

RIGHT = np.array([0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 0, 1])
BEFORE = np.array([0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0])
AFTER = np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1])
GROUPS = (*"aaaa", *"bbbbb", *"cccccc")
SPLIT = Dataset("search", ("x y",) * 15, RIGHT, np.arange(15), "rows.csv", columns={"who": GROUPS})


def score(outcomes: np.ndarray, **changes: Any) -> Score:
    return dataclasses.replace(Score("accuracy", 0.0, len(outcomes), outcomes), **changes)


def judged(
    before: Score, after: Score, split: Dataset = SPLIT, max_gap: float | None = None
) -> list[GapRecord]:
    columns = {"who": slice_masks(split, ("who",), ("no", "yes"), before.metric)}
    found = judge_gaps(split, columns, before, after, max_gap=max_gap, confidence=0.95, seed=0)
    return list(found)


def test_differences_and_ratios_are_those_of_fairlearn():
    # Fairlearn 0.15, MetricFrame of zero_one_loss: by_group, difference() and ratio().
    # Before, 1 of 4, 1 of 5 and 1 of 6 are wrong; after, 2 of 4, 2 of 5 and 1 of 6.
    [found] = judged(score(BEFORE), score(AFTER))
    rates = {group.name: (group.before, group.after) for group in found.groups}
    assert rates == {
        "who = a": pytest.approx((1 / 4, 2 / 4)),
        "who = b": pytest.approx((1 / 5, 2 / 5)),
        "who = c": pytest.approx((1 / 6, 1 / 6)),
    }
    assert found.difference_before == pytest.approx(0.08333333333333337)
    assert found.ratio_before == pytest.approx(0.6666666666666665)
    assert found.difference_after == pytest.approx(0.33333333333333337)
    assert found.ratio_after == pytest.approx(0.33333333333333326)


def test_the_gap_is_between_the_groups_that_changed_most_and_least():
    [found] = judged(score(BEFORE), score(AFTER))
    assert [group.name for group in found.groups] == ["who = a", "who = b", "who = c"]
    assert found.gap == pytest.approx(1 / 4 - 0)
    assert 0 <= found.lower_bound <= found.gap <= found.upper_bound
    assert (found.max_gap, found.verdict) == (None, None)


def test_without_any_error_there_is_no_ratio():
    [found] = judged(score(RIGHT), score(RIGHT))
    assert (found.ratio_before, found.ratio_after, found.gap) == (None, None, 0.0)
    assert found.lower_bound == 0.0


def test_a_column_of_one_value_has_no_gap():
    split = dataclasses.replace(SPLIT, columns={"who": ("a",) * 15})
    assert judged(score(BEFORE), score(AFTER), split) == []


def test_without_labels_the_error_is_the_share_of_changed_predictions():
    split = dataclasses.replace(SPLIT, labels=None)
    [found] = judged(score(BEFORE), score(AFTER), split)
    rates = {group.name: (group.before, group.after) for group in found.groups}
    assert rates["who = c"] == (0.0, pytest.approx(2 / 6))


def test_of_means_the_error_is_one_less_the_metric():
    before, after = np.ones(15), np.where(np.arange(15) < 4, 0.9, 0.98)
    shares = [
        score(np.zeros(15, int), metric="cosine", shares=values) for values in (before, after)
    ]
    split = dataclasses.replace(SPLIT, labels=None)
    [found] = judged(*shares, split)
    assert found.groups[0].name == "who = a"
    assert [group.after for group in found.groups] == pytest.approx([0.1, 0.02, 0.02])
    assert found.gap == pytest.approx(0.08)


def large(rates: dict[str, float], rows: int = 600) -> GapRecord:
    """Return the gap where such parts of groups of `rows` turn wrong."""
    names = np.repeat(list(rates), rows)
    wrong = np.concatenate([np.arange(rows) < rate * rows for rate in rates.values()])
    right = np.arange(len(names)) % 2
    split = Dataset(
        "search", ("x",) * len(names), right, np.arange(len(names)), "rows.csv",
        columns={"who": tuple(names.tolist())},
    )  # fmt: skip
    [found] = judged(score(right), score(right ^ wrong), split, max_gap=0.05)
    return found


def test_verdicts_follow_from_the_bounds():
    certified, refuted = large({"a": 0.01, "b": 0.01}), large({"a": 0.15, "b": 0.0, "c": 0.01})
    unclear = large({"a": 0.06, "b": 0.0}, rows=60)
    assert (certified.verdict, refuted.verdict) == ("certified", "refuted")
    assert unclear.verdict == "inconclusive"
    assert certified.upper_bound <= 0.05 < refuted.lower_bound


def test_a_model_ruined_for_everybody_has_no_gap_and_is_not_praised_for_it():
    found = large({"a": 1.0, "b": 1.0})
    assert (found.gap, found.difference_after) == (0.0, 0.0)
    assert found.groups[0].after == 1.0


class Log:
    """The part of a run's log that is judged."""

    def __init__(self, *gaps: GapRecord) -> None:
        self.gaps = gaps


def test_a_proven_gap_ends_the_run_and_one_that_is_not_does_not():
    refuted = large({"a": 0.15, "b": 0.0})
    with pytest.raises(BudgetExceeded) as caught:
        gate_gaps(Log(refuted))  # type: ignore[arg-type]
    assert caught.value.step == "who = a beside who = b"
    assert (caught.value.drop, caught.value.max_drop) == (pytest.approx(0.15), 0.05)
    assert "raise budget.max_slice_gap" in str(caught.value)
    gate_gaps(Log(large({"a": 0.06, "b": 0.0}, rows=60)))  # type: ignore[arg-type]


def test_the_budget_needs_slices():
    with pytest.raises(ValueError, match="there are no slices"):
        AccuracyBudget(max_drop=0.1, max_slice_gap=0.1)


def test_left_out_it_is_not_written(bert_recipe: dict[str, Any]):
    assert "max_slice_gap" not in load_recipe(bert_recipe).to_dict()["budget"]


def test_a_recipe_without_slices_is_refused(bert_recipe: dict[str, Any]):
    with pytest.raises(RecipeError, match="max_slice_gap: there are no slices"):
        load_recipe({**bert_recipe, "budget": {"max_drop": 0.5, "max_slice_gap": 0.5}})
