"""Errors say in words what their attributes hold."""

from __future__ import annotations

import pytest

from compressor.errors import NotCertified, RecipeError, about


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (7, "about 7"),
        (99, "about 99"),
        (5400, "about 5,400"),
        (5401, "about 5,500"),
        (37_218_995, "about 38,000,000"),
    ],
)
def test_an_estimate_is_rounded_up_to_two_digits(count: int, words: str):
    assert about(count) == words


def test_an_unproven_budget_names_the_rows_it_would_take():
    error = NotCertified(
        metric="accuracy", drop=0.005, max_drop=0.01, upper_bound=0.02, needed_examples=5321
    )
    assert "give data.certification about 5,400 rows" in str(error)
    assert error.needed_examples == 5321


def test_a_mistake_of_a_megabyte_keeps_its_place_and_its_end():
    error = RecipeError(f"r.yaml:1: {'x' * 1_000_000} end")
    assert str(error).startswith("r.yaml:1: xxx")
    assert str(error).endswith("xxx end")
    assert len(str(error)) < 2000
    assert len(error.mistakes[0]) > 1_000_000


def test_mistakes_that_were_only_counted_are_told():
    assert str(RecipeError(["a", "b"], more=7)) == "a\nb\n... and 7 more mistakes like these"
