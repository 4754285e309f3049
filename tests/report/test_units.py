import doctest
import math

import pytest

from compressor.report import units


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(units).failed == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.996, "10.0"),
        (99.96, "100"),
        (999.6, "1,000"),
        (0.0049, "0.00490"),
        (0, "0"),
        (-1.5, "−1.50"),
    ],
)
def test_a_number_keeps_three_significant_digits_when_it_rounds_up(value: float, text: str):
    assert units.number(value) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "show", [units.number, units.points, units.change, units.duration, units.times]
)
def test_what_is_not_a_finite_number_is_a_dash(show, value: float | None):
    assert show(value) == "—"


@pytest.mark.parametrize("value", [None, math.nan])
def test_a_score_that_is_not_a_number_is_a_dash(value: float | None):
    assert units.score("accuracy", value) == "—"


def test_a_tiny_gain_is_neither_plus_nor_minus_zero():
    assert (units.change(-1e-9), units.change(1e-9)) == ("0.00", "0.00")


def test_a_drop_of_exactly_the_budget_reads_alike_on_both_sides():
    assert units.change_and_budget(0.9 - 0.89, 0.01) == ("−1.00", "1.00")


def test_a_gain_is_shown_with_a_plus():
    assert units.change_and_budget(-0.0123, 0.01) == ("+1.23", "1.00")


def test_no_change_has_no_sign():
    assert units.change_and_budget(0.0, 0.01) == ("0.00", "1.00")


@pytest.mark.parametrize(("before", "after"), [(None, 2.0), (2.0, None), (0.0, 2.0), (2.0, 0.0)])
def test_there_is_no_ratio_without_two_positive_numbers(before: float | None, after: float | None):
    assert units.ratio(before, after) is None


@pytest.mark.parametrize(
    ("factor", "words"), [(1.04, "same size"), (0.96, "same size"), (1.06, "1.1× smaller")]
)
def test_five_per_cent_either_way_count_as_the_same(factor: float, words: str):
    assert units.compared(factor, "smaller", "larger", "same size") == words


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1.0004, "same size"), (1.04, "3.8% smaller"), (0.96, "4.2% larger"), (1.06, "1.1× smaller")],
)
def test_what_was_counted_is_the_same_only_where_it_is(factor: float, words: str):
    assert units.compared(factor, "smaller", "larger", "same size", counted=True) == words


def test_a_correlation_is_not_shown_as_per_cent():
    assert units.score("matthews_correlation", -0.25) == "−0.2500"


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (9.96, "10.0 s")]
)
def test_a_duration_carries_over_when_it_rounds_up(seconds: float, text: str):
    assert units.duration(seconds) == text
