"""What is right in settings is read although other parts are wrong."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.recipe.readable import readable_part
from compressor.setting_errors import Mistake, rule_error


class Oven(BaseModel):
    model_config = ConfigDict(extra="forbid")

    degrees: int = Field(ge=0, le=300)
    shelves: tuple[int, ...] = (1,)
    fan: bool = False
    steam: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fan and self.steam:
            raise rule_error([Mistake(("steam",), "fan and steam exclude each other")])
        if self.degrees > 250 and len(self.shelves) < 2:
            raise rule_error([Mistake((), "a hot oven needs two shelves")])
        return self


class Kitchen(BaseModel):
    model_config = ConfigDict(extra="forbid")

    oven: Oven
    name: str


def read(data: dict[str, Any]) -> tuple[Kitchen | None, list[tuple[tuple[str | int, ...], str]]]:
    found, told = readable_part(
        Kitchen, data, context={}, stand_ins={("name",): "nameless"}, variants={}
    )
    return found, [(item.path, item.message) for item in told]


def test_what_is_right_is_returned_whole():
    found, told = read({"oven": {"degrees": 180, "shelves": [1, 2]}, "name": "mine"})
    assert found == Kitchen(oven=Oven(degrees=180, shelves=(1, 2)), name="mine")
    assert told == []


def test_a_wrong_value_is_taken_out_and_told():
    found, told = read({"oven": {"degrees": 180, "fan": "yes", "fann": True}, "name": "mine"})
    assert found == Kitchen(oven=Oven(degrees=180), name="mine")
    assert [path for path, _ in told] == [("oven", "fan"), ("oven", "fann")]


def test_an_entry_goes_with_its_list():
    found, told = read({"oven": {"degrees": 180, "shelves": [1, "top"]}, "name": "mine"})
    assert found == Kitchen(oven=Oven(degrees=180), name="mine")
    assert [path for path, _ in told] == [("oven", "shelves", 1)]


def test_what_is_missing_or_wrong_is_replaced_where_something_can_stand_for_it():
    oven = {"degrees": 180}
    assert read({"oven": oven})[0] == Kitchen(oven=Oven(degrees=180), name="nameless")
    assert read({"oven": oven, "name": 3})[0] == Kitchen(oven=Oven(degrees=180), name="nameless")


def test_nothing_is_returned_where_nothing_can_stand_for_what_is_missing():
    found, told = read({"oven": {"fan": True}, "name": "mine"})
    assert found is None
    assert told[0] == (("oven",), "required key 'degrees' is missing")


def test_a_rule_is_told_beside_other_mistakes():
    _, told = read({"oven": {"degrees": 1, "fan": True, "steam": True, "x": 1}, "name": "mine"})
    assert told[1] == (("oven", "steam"), "fan and steam exclude each other")


def test_a_rule_that_only_a_missing_part_breaks_is_not_told():
    found, told = read({"oven": {"degrees": 260, "shelves": ["a", "b"]}, "name": "mine"})
    assert found is None
    assert [path for path, _ in told] == [("oven", "shelves", 0), ("oven", "shelves", 1)]
