"""Errors say in words what their attributes hold."""

from __future__ import annotations

import importlib

import pytest

import compressor
from compressor.errors import (
    BudgetExceeded,
    EnvironmentMismatch,
    NotCertified,
    RecipeError,
    missing_package,
)


def test_an_unproven_budget_names_the_rows_it_would_take():
    error = NotCertified(
        metric="accuracy", drop=0.005, max_drop=0.01, upper_bound=0.02, needed_examples=5321
    )
    assert "give data.certification about 5,400 rows" in str(error)
    assert error.needed_examples == 5321


def test_rows_that_hold_what_must_not_be_missed_are_counted_by_themselves():
    error = NotCertified(
        metric="recall of LOC", drop=0.0, max_drop=0.05, upper_bound=0.75, needed_examples=98,
        units="documents that hold LOC", there=3, key="budget.max_missed",
    )  # fmt: skip
    assert "give data.certification about 98 documents that hold LOC in all (there are 3), " in str(
        error
    )


def test_a_mistake_of_a_megabyte_keeps_its_place_and_its_end():
    error = RecipeError(f"r.yaml:1: {'x' * 1_000_000} end")
    assert str(error).startswith("r.yaml:1: xxx")
    assert str(error).endswith("xxx end")
    assert len(str(error)) < 2000
    assert len(error.mistakes[0]) > 1_000_000


def test_a_single_mistake_that_was_only_counted_is_one():
    assert str(RecipeError("a", more=1)) == "a\n... and 1 more mistake like these"


def test_mistakes_that_were_only_counted_are_told():
    assert str(RecipeError(["a", "b"], more=7)) == "a\nb\n... and 7 more mistakes like these"


def test_a_gain_that_is_not_proven_is_no_negative_fall():
    error = NotCertified(
        metric="accuracy", drop=-0.0052, max_drop=0.01, upper_bound=0.0131, needed_examples=None
    )
    assert str(error).startswith(
        "certification: accuracy rose by 0.52 points, but all that these rows prove is a drop of "
        "at most 1.31 points, and the budget allows 1 point; give data.certification more rows"
    )


def test_a_bound_that_is_hardly_above_the_budget_does_not_read_like_it():
    error = NotCertified(
        metric="accuracy", drop=0.002, max_drop=0.01, upper_bound=0.010004, needed_examples=None
    )
    assert "prove is a drop of at most 1.01 points, and the budget allows 1 point" in str(error)


def test_a_budget_that_is_exceeded_is_said_in_points():
    error = BudgetExceeded(
        "export", metric="f1", drop=0.05, max_drop=0.01, earlier=("passes[0] (distill)", 0.04)
    )
    assert str(error).startswith(
        "export: f1 fell by 5 points from the baseline, the budget allows 1 point; of that, "
        "passes[0] (distill) before it cost 4 points; use milder settings"
    )


def test_a_proof_that_proves_nothing_is_told_in_points_and_in_their_direction():
    error = NotCertified(
        metric="accuracy",
        drop=-0.0125,
        max_drop=0.6,
        upper_bound=0.05,
        needed_examples=None,
        uninformed="a coin would pass too",
    )
    assert str(error).startswith(
        "certification: accuracy rose by 1.25 points, and these rows prove a drop of at most 5 "
        "points, but a budget of 60 points proves little here: a coin would pass too; lower "
        "budget.max_drop"
    )


def test_a_forgotten_extra_is_named_to_python_code_too(monkeypatch: pytest.MonkeyPatch):
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(EnvironmentMismatch, match="onnxruntime is not installed"):
        _ = compressor.load_artifact


def test_another_package_that_is_missing_is_not_explained_away():
    assert missing_package(ModuleNotFoundError("No module named 'x'", name="x")) is None
