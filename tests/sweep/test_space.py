"""Points of a space, in the text that `--set` takes."""

from __future__ import annotations

import doctest

import pytest
from pydantic import ValidationError

from compressor import amounts
from compressor.recipe.yaml_source import parse_value
from compressor.sweep.space import Choices, Range, corners, grid, settings_of, size_of

SPACE = {
    "passes.0.ratio": Range(low=0.3, high=0.5, step=0.1),
    "passes.1.kind": Choices(choices=("a", "b")),
}


def test_the_values_of_a_range_are_those_that_are_written():
    values = Range(low=0.3, high=0.6, step=0.05).values
    assert values == (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def test_whole_numbers_have_a_step_of_one():
    assert Range(low=1, high=3).values == (1, 2, 3)
    assert Range(low=2, high=8, step=3).values == (2, 5, 8)


def test_a_range_of_floats_without_a_step_has_no_end():
    assert Range(low=0.1, high=1).values is None
    assert Range(low=1, high=64, log=True).values is None


@pytest.mark.parametrize("step", [0.3, 0.5])
def test_a_step_has_to_lead_to_the_end(step: float):
    with pytest.raises(ValidationError):
        Range(low=0.0, high=0.4, step=step)


def test_the_last_key_of_a_grid_changes_fastest():
    found = [settings_of(SPACE, point) for point in grid(SPACE)]
    assert found[:3] == [
        ["passes.0.ratio=0.3", 'passes.1.kind="a"'],
        ["passes.0.ratio=0.3", 'passes.1.kind="b"'],
        ["passes.0.ratio=0.4", 'passes.1.kind="a"'],
    ]
    assert len(found) == size_of(SPACE) == 6


def test_a_sum_of_floats_is_written_as_the_number_that_is_meant():
    assert settings_of(SPACE, {"passes.0.ratio": 0.1 + 0.2 + 0.1, "passes.1.kind": '"a"'})[0] == (
        "passes.0.ratio=0.4"
    )


@pytest.mark.parametrize(
    "value",
    [4, 0.5, 1e-07, True, None, "yes", "1e-4", 'a "b": #c', [1, "x"], {"kind": "a", "b": [1]}],
)
def test_a_choice_is_read_back_as_it_was_written(value: object):
    [text] = Choices(choices=(value,)).values
    assert parse_value(text) == value


def test_corners_take_every_end():
    assert len(corners(SPACE)) == 4
    many = {f"passes.{place}.ratio": Range(low=0.1, high=0.5) for place in range(9)}
    assert [set(point.values()) for point in corners(many)] == [{0.1}, {0.5}]


def test_the_examples_of_amounts_hold():
    assert doctest.testmod(amounts).failed == 0


@pytest.mark.parametrize("text", ["MB", "-1 MB", "1 XB", "1e9", "9" * 30])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(ValueError, match="must be a size such as"):
        amounts.parse_bytes(text)
