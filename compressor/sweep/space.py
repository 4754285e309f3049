"""The settings that a sweep tries: ranges and choices for keys of a recipe, as `--set` spells them.

A value is kept as the text that `--set KEY=VALUE` takes, so that a trial's recipe is read the way a
user would have written it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.setting_errors import Mistake, did_you_mean, first_repeated, rule_error, show

Value = int | float | str  # a number of a range, or a choice as JSON
Point = Mapping[str, Value]  # by the keys of the space

MOST_POINTS = 10_000  # of a grid: more are nobody's sweep
_MOST_CORNERS = 32  # that are looked at before anything runs
_WHOLE = Decimal("1e-9")  # of a step, by which an end of a range may miss one


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; whole ones where all that is given is whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float = Field(description="the smallest value")
    high: int | float = Field(description="the largest value")
    step: int | float | None = Field(
        default=None, gt=0, description="from one value to the next; left out, 1 for whole numbers"
    )
    log: bool = Field(
        default=False, description="drawn so that each factor is as likely, as for a learning rate"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = []
        if not all(math.isfinite(item) for item in (self.low, self.high)):
            mistakes.append(Mistake((), "low and high must be finite"))
        elif self.low >= self.high:
            mistakes.append(
                Mistake(("high",), f"must be above low ({self.low:g}), got {self.high:g}")
            )
        if self.log and self.low <= 0:
            mistakes.append(Mistake(("low",), f"must be above 0 with log, got {self.low:g}"))
        if self.log and self.step is not None:
            mistakes.append(Mistake(("step",), "cannot be given with log: true; remove one"))
        if not mistakes and self.step is not None and self._steps() is None:
            mistakes.append(
                Mistake(
                    ("high",),
                    f"must be low and a whole number of steps of {self.step:g}, got {self.high:g}",
                )
            )
        if mistakes:
            raise rule_error(mistakes)
        return self

    @property
    def is_whole(self) -> bool:
        """Return whether the values are integers."""
        given = (self.low, self.high, self.step)
        return all(isinstance(item, int) for item in given if item is not None)

    @property
    def values(self) -> tuple[Value, ...] | None:
        """Return every value, in order; None where there is no step between them."""
        if self.is_whole and not self.log:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        steps = self._steps()
        if self.step is None or steps is None:
            return None
        return tuple(self._at(place) for place in range(steps + 1))

    @property
    def ends(self) -> tuple[Value, Value]:
        """Return the smallest and the largest value."""
        if self.is_whole:
            return int(self.low), int(self.high)
        return float(self.low), float(self.high)

    def text(self, value: Value) -> str:
        """Return a value as `--set` takes it."""
        if self.step is not None and not self.is_whole:
            # 0.3 + 3 * 0.05 is 0.44999999999999996 in floats.
            distance = Decimal(str(value)) - Decimal(str(self.low))
            value = self._at(round(distance / Decimal(str(self.step))))
        return repr(value)

    def _at(self, place: int) -> float:
        return float(Decimal(str(self.low)) + place * Decimal(str(self.step)))

    def _steps(self) -> int | None:
        """Return how many steps lie between the ends; None where the last is no whole one."""
        if self.step is None:
            return None
        steps = (Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step))
        whole = round(steps)
        return whole if abs(steps - whole) <= _WHOLE and whole >= 1 else None


class Choices(BaseModel):
    """Values to choose from: numbers, words, or whole lists and mappings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[Any, ...] = Field(min_length=1, max_length=1000, description="the values")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (twice := first_repeated(self.values)) is not None:
            raise rule_error([Mistake(("choices",), f"names {twice} twice")])
        return self

    @property
    def values(self) -> tuple[Value, ...]:
        """Return every value as JSON, in order."""
        return tuple(json.dumps(item, ensure_ascii=False) for item in self.choices)

    @property
    def ends(self) -> tuple[Value, ...]:
        """Return every value: none of them lies between others."""
        return self.values

    def text(self, value: Value) -> str:
        """Return a value as `--set` takes it."""
        return str(value)


Dimension = Range | Choices


def to_dimension(value: Any) -> Any:
    """Turn a mapping into the dimension that its keys tell."""
    if isinstance(value, Range | Choices):
        return value
    if not isinstance(value, dict):
        raise ValueError(
            f"must be a mapping such as {{low: 0.2, high: 0.8, step: 0.1}} or "
            f"{{choices: [4, 8]}}, got {show(value)}"
        )
    kind: type[Range] | type[Choices] = Choices if "choices" in value else Range
    unknown = [
        Mistake((key,), f"unknown key {show(key)}{did_you_mean(key, kind.model_fields)}")
        for key in value
        if key not in kind.model_fields
    ]
    if unknown:
        raise rule_error(unknown)
    return kind.model_validate_json(json.dumps(value), strict=True)


def dimension_words(dimension: Dimension) -> str:
    """Say what a dimension holds, such as `0.2 to 0.8 by 0.1`."""
    if isinstance(dimension, Choices):
        return " or ".join(map(str, dimension.values))
    step = "" if dimension.step is None else f" by {dimension.step:g}"
    return f"{dimension.low:g} to {dimension.high:g}{step}{', log' if dimension.log else ''}"


def settings_of(space: Mapping[str, Dimension], point: Point) -> list[str]:
    """Return a point as `--set` takes it: `KEY=VALUE` for each key of the space."""
    return [f"{key}={dimension.text(point[key])}" for key, dimension in space.items()]


def size_of(space: Mapping[str, Dimension]) -> int | None:
    """Return how many points a grid over the space has; None where it has no end."""
    counts = [None if item.values is None else len(item.values) for item in space.values()]
    known = [count for count in counts if count is not None]
    return math.prod(known) if len(known) == len(counts) else None


def grid(space: Mapping[str, Dimension]) -> Iterator[Point]:
    """Yield every point of a space that has an end; the last key changes fastest."""
    values = [dimension.values for dimension in space.values()]
    known = [item for item in values if item is not None]
    assert len(known) == len(values), "the space was checked"
    for chosen in itertools.product(*known):
        yield dict(zip(space, chosen, strict=True))


def corners(space: Mapping[str, Dimension]) -> Sequence[Point]:
    """Return points that take every end of every dimension, all of their combinations if few."""
    ends = {key: dimension.ends for key, dimension in space.items()}
    if math.prod(len(item) for item in ends.values()) <= _MOST_CORNERS:
        return [
            dict(zip(ends, chosen, strict=True)) for chosen in itertools.product(*ends.values())
        ]
    longest = max(len(item) for item in ends.values())
    return [
        {key: item[min(place, len(item) - 1)] for key, item in ends.items()}
        for place in range(longest)
    ]
