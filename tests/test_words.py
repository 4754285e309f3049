"""Counts and changes as sentences say them."""

import doctest

import pytest

from compressor import words
from compressor.words import about, bound_and_budget, counted, moved, moved_and_budget


def test_the_examples_in_the_documentation_hold():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (7, "about 7"),
        (99, "about 99"),
        (5400, "about 5,400"),
        (5401, "about 5,500"),
        (37_218_995, "about 38,000,000"),
    ],
)
def test_an_estimate_is_rounded_up_to_two_digits(count: int, told: str):
    assert about(count) == told


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        (0.9 - 0.85, "fell by 5 points"),
        (3 / 299, "fell by 1 point"),
        (0.9 - 0.9052, "rose by 0.52 points"),
        (0.01, "fell by 1 point"),
        (0.9 - 0.8 - 0.1, "did not change"),
    ],
)
def test_a_score_falls_or_rises_by_points(drop: float, told: str):
    assert moved(drop) == told


@pytest.mark.parametrize(
    ("amount", "noun", "plural", "told"),
    [
        (1, "row", None, "1 row"),
        (0, "row", None, "0 rows"),
        (2, "token", None, "2 tokens"),
        (1, "try", "tries", "1 try"),
        (6, "try", "tries", "6 tries"),
        (1, "pass", None, "1 pass"),
        (3, "pass", None, "3 passes"),
        (1_234_567, "example", None, "1,234,567 examples"),
    ],
)
def test_what_is_counted_stands_in_the_form_of_its_number(
    amount: int, noun: str, plural: str | None, told: str
):
    assert counted(amount, noun, plural) == told


def test_a_loss_just_above_the_budget_does_not_read_like_it():
    assert moved_and_budget(0.010000004, 0.01) == ("fell by 1.0000004 points", "1 point")


def test_a_gain_as_large_as_the_budget_needs_no_more_digits():
    assert moved_and_budget(-0.01, 0.01) == ("rose by 1 point", "1 point")


@pytest.mark.parametrize(
    ("bound", "upwards", "expected"),
    [
        (0.00871, True, ("0.88", "1.00")),
        (0.00871, False, ("0.87", "1.00")),
        (0.010004, True, ("1.01", "1.00")),
        (0.010004, False, ("1.0004", "1.0000")),
        (0.009949, True, ("0.995", "1.000")),
        (0.01, True, ("1.00", "1.00")),
        (-0.0012, False, ("−0.12", "1.00")),
    ],
)
def test_a_bound_is_rounded_to_the_side_on_which_it_holds(
    bound: float, expected: tuple[str, str], *, upwards: bool
):
    assert bound_and_budget(bound, 0.01, upwards=upwards) == expected
