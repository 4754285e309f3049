from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from compressor.passes import PASSES, SettingDescription, pass_settings


class Walk(BaseModel):
    kind: Literal["walk"] = "walk"
    minutes: float = Field(default=10.0, gt=0, description="duration in minutes")


class Swim(BaseModel):
    kind: Literal["swim"] = "swim"
    minutes: float = Field(default=10.0, gt=0, description="duration in minutes")
    lanes: int = Field(default=1, ge=1, le=8, description="lanes used")
    dives: Literal["deep", False] = Field(default=False, description="how deep")


class Exercise(BaseModel):
    kind: Literal["exercise"] = "exercise"
    level: Literal["easy", "hard"] = Field(description="how hard")
    days: tuple[str, ...] = Field(default=("monday",), description="days of the week")
    then: Annotated[Walk | Swim, Field(discriminator="kind")] | None = Field(
        default=None, description="what follows"
    )


def test_settings_are_described_in_order_with_nested_ones_behind_their_owner() -> None:
    assert pass_settings(Exercise) == [
        SettingDescription("level", "one of easy, hard", "required", "", "how hard"),
        SettingDescription("days", "list of text", "[monday]", "", "days of the week"),
        SettingDescription("then", "mapping or null", "null", "", "what follows"),
        SettingDescription(
            "then.kind", "one of walk, swim", "required", "", "which settings follow"
        ),
        SettingDescription("then.minutes", "number", "10.0", "> 0", "duration in minutes"),
        SettingDescription("then.lanes", "integer", "1", ">= 1, <= 8", "lanes used (kind swim)"),
        SettingDescription("then.dives", "one of deep, false", "false", "", "how deep (kind swim)"),
    ]


def test_every_setting_of_every_pass_has_a_description() -> None:
    assert PASSES
    undescribed = [
        f"{kind}.{item.name}"
        for kind, entry in PASSES.items()
        for item in pass_settings(entry.settings)
        if not item.description
    ]
    assert undescribed == []
