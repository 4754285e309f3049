from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressor.setting_errors import (
    Mistake,
    did_you_mean,
    explain,
    first_repeated,
    rule_error,
    show,
)


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat"] = "cat"
    lives: int = Field(default=9, ge=1, le=9)


class Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"] = "dog"
    weight_kg: float = Field(default=10.0, gt=0, lt=100)
    layers: Annotated[int, Field(gt=0)] | tuple[int, ...] | None = None


class Home(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pet: Cat | Dog | None = Field(default=None, discriminator="kind")
    names: str | tuple[str, str] = "x"
    colour: Literal["red", "green"] = "red"
    sizes: tuple[float, ...] = Field(default=(), max_length=2)
    rooms: int = 1


def explained(data: dict[str, Any]) -> list[Mistake]:
    with pytest.raises(ValidationError) as caught:
        Home.model_validate(data, strict=False)
    return explain(caught.value.errors(), data, Home, {})


def test_a_bound_is_named_with_the_value_given() -> None:
    assert explained({"pet": {"kind": "dog", "weight_kg": 100}}) == [
        Mistake(("pet", "weight_kg"), "must be less than 100, got 100")
    ]


def test_an_unknown_key_names_those_of_the_kind_that_is_given() -> None:
    assert explained({"pet": {"kind": "cat", "live": 3}}) == [
        Mistake(("pet", "live"), "unknown key 'live', did you mean 'lives'? (allowed: kind, lives)")
    ]


def test_an_unknown_kind_lists_the_kinds() -> None:
    assert explained({"pet": {"kind": "dug"}}) == [
        Mistake(("pet",), "unknown kind 'dug', did you mean 'dog'? (allowed: cat, dog)")
    ]


def test_a_missing_kind_is_a_missing_key() -> None:
    assert explained({"pet": {"lives": 3}}) == [Mistake(("pet",), "required key 'kind' is missing")]


def test_the_branches_of_a_union_are_one_mistake() -> None:
    assert explained({"names": 5}) == [
        Mistake(("names",), "must be text (put it in quotes) or a list, got 5")
    ]


def test_the_branch_that_was_meant_is_the_one_reported() -> None:
    assert explained({"names": ["a", 5]}) == [
        Mistake(("names", 1), "must be text (put it in quotes), got 5")
    ]


def test_a_list_of_the_wrong_length_says_both_lengths() -> None:
    assert explained({"sizes": [1, 2, 3]}) == [
        Mistake(("sizes",), "must be a list of at most 2 entries, got a list of 3 entries")
    ]


def test_a_word_that_is_not_a_choice_lists_the_choices() -> None:
    assert explained({"colour": "blue"}) == [
        Mistake(("colour",), "must be 'red' or 'green', got 'blue'")
    ]


def test_several_mistakes_are_all_reported() -> None:
    found = explained({"rooms": "many", "colour": None, "garden": 1})
    assert [mistake.path for mistake in found] == [("colour",), ("rooms",), ("garden",)]


def test_a_rule_keeps_its_own_words_and_its_place_when_nested() -> None:
    error = rule_error([Mistake(("a",), "is {odd}")])
    assert explain(error.errors(), {"a": 1}, Home, {}) == [Mistake(("a",), "is {odd}")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing (null)"),
        (True, "true"),
        (0.5, "0.5"),
        ("a", "'a'"),
        ([1, 2], "a list of 2 entries"),
        ({}, "an empty mapping"),
        ({"a": 1}, "a mapping"),
        ("x" * 100, "'" + "x" * 57 + "...'"),
    ],
)
def test_values_are_shown_as_a_recipe_spells_them(value: object, text: str) -> None:
    assert show(value) == text


def test_a_word_like_nothing_known_gets_the_list_without_a_guess() -> None:
    assert did_you_mean("zzz", ["ratio", "kind"]) == " (allowed: ratio, kind)"


def test_a_list_with_wrong_entries_is_not_called_short_as_well() -> None:
    class Named(BaseModel):
        names: tuple[str, ...] = Field(default=("x",), min_length=1)

    data = {"names": [5]}
    with pytest.raises(ValidationError) as caught:
        Named.model_validate(data)
    assert explain(caught.value.errors(), data, Named, {}) == [
        Mistake(("names", 0), "must be text (put it in quotes), got 5")
    ]


def test_an_empty_list_of_two_is_one_mistake() -> None:
    assert explained({"names": []}) == [
        Mistake(("names",), "must be text or a list of at least 2 entries, got an empty list")
    ]


def test_a_long_list_of_names_is_cut_and_counted() -> None:
    names = [f"n{number}" for number in range(50_000)]
    assert did_you_mean("text", names, noun="columns") == (
        f" (columns: {', '.join(names[:30])}, ... (50000 in all))"
    )


def test_the_first_repeated_of_sixty_thousand_values_is_found() -> None:
    assert first_repeated([*range(60_000), 59_999, 3]) == 59_999
    assert first_repeated(range(60_000)) is None
