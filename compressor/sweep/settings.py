"""What a sweep file asks for, read from YAML and checked like a recipe, before anything is run.

Reading it loads neither torch nor Optuna.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from compressor.amounts import parse_bytes, parse_points
from compressor.errors import RecipeError
from compressor.paths import LocalPath, is_folder
from compressor.recipe.recipe import Recipe, load_recipe
from compressor.recipe.yaml_source import Document, parse_document, read_text
from compressor.setting_errors import Mistake, did_you_mean, explain, rule_error
from compressor.sweep.space import (
    MOST_POINTS,
    Dimension,
    Point,
    settings_of,
    size_of,
    to_dimension,
)
from compressor.words import counted

Sampler = Literal["grid", "random", "tpe", "nsga2"]
Direction = Literal["maximize", "minimize"]
Figure = Literal["score", "drop", "latency_ms", "speedup", "bytes"]

# What a trial is compared by, and which way is better.
BETTER: Mapping[str, Direction] = {
    "score": "maximize",
    "latency_ms": "minimize",
    "speedup": "maximize",
    "bytes": "minimize",
}
TIMES = frozenset({"latency_ms", "speedup"})
# Sections that have to be the same for trials to be compared, and what a sweep sets itself.
_SAME = ("data", "budget", "benchmark", "report", "output")
_INDEX = re.compile(r"\[(\d+)\]")
_MOST_TRIALS = 100_000


def _better_way(objectives: dict[str, Direction]) -> dict[str, Direction]:
    mistakes = []
    for name, direction in objectives.items():
        if name not in BETTER:
            mistakes.append(Mistake((name,), f"unknown objective{did_you_mean(name, BETTER)}"))
        elif direction != BETTER[name]:
            mistakes.append(Mistake((name,), f"can only be {BETTER[name]}, got {direction}"))
    if mistakes:
        raise rule_error(mistakes)
    return objectives


def _to_bytes(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


def _to_points(value: Any) -> Any:
    return parse_points(value) if isinstance(value, str) else value


class Constraints(BaseModel):
    """The sweep's `constraints`: what a trial has to keep to be chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: float | None = Field(default=None, description="least score on the search split")
    drop: Annotated[float, BeforeValidator(_to_points)] | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="largest drop of the score from the baseline on the search split, such as "
        "`1.0 points` or 0.01",
    )
    bytes: Annotated[int, BeforeValidator(_to_bytes)] | None = Field(
        default=None, gt=0, description="largest ONNX file, such as `20 MB`, or a number of bytes"
    )
    latency_ms: float | None = Field(default=None, gt=0, description="largest latency, ms")
    speedup: float | None = Field(
        default=None, gt=0, description="least speed-up: baseline's latency over the artifact's"
    )

    @property
    def given(self) -> dict[str, float]:
        """Return the limits by the figure that they limit."""
        found = self.model_dump(exclude_none=True)
        return {name: found[name] for name in type(self).model_fields if name in found}


class Sweep(BaseModel):
    """What a sweep file says, validated; build one with `load_sweep`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: LocalPath = Field(description="the recipe, relative to the sweep file")
    space: dict[str, Annotated[Dimension, BeforeValidator(to_dimension)]] = Field(
        min_length=1,
        max_length=100,
        description="for keys of the recipe as --set spells them, the values to try: `{low, high, "
        "step, log}` or `{choices: [...]}`",
    )
    objectives: Annotated[dict[str, Direction], AfterValidator(_better_way)] = Field(
        min_length=1,
        description="what makes a trial better: score (maximize), latency_ms (minimize), speedup "
        "(maximize), bytes of the ONNX file (minimize); one or several",
    )
    constraints: Constraints = Field(
        default_factory=Constraints, description="what a trial has to keep to be chosen"
    )
    choose: str | None = Field(
        default=None,
        description="the objective by which the best of the trials that keep all constraints is "
        "chosen; left out, the first",
    )
    sampler: Sampler = Field(
        default="tpe",
        description="who picks the next trial: grid (every combination), random, tpe (a model of "
        "what was good so far) or nsga2 (evolution, for several objectives)",
    )
    trials: int | None = Field(
        default=None,
        ge=1,
        le=_MOST_TRIALS,
        description="how many trials; a grid has as many as there are combinations",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="number that all picks follow from")
    output: LocalPath | None = Field(
        default=None, description="directory for trials and front, relative to the sweep file"
    )

    _source: Document | None = PrivateAttr(None)
    _overrides: tuple[str, ...] = PrivateAttr(())
    _allows_code: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes = [*self._space_mistakes(), *self._trial_mistakes()]
        if self.choose is not None and self.choose not in self.objectives:
            known = did_you_mean(self.choose, self.objectives, noun="objectives")
            mistakes.append(Mistake(("choose",), f"is no objective of this sweep{known}"))
        if mistakes:
            raise rule_error(mistakes)
        return self

    def _space_mistakes(self) -> list[Mistake]:
        mistakes = []
        seen: dict[str, str] = {}
        for key in self.space:
            words = _INDEX.sub(r".\1", key.strip()).split(".")
            plain = ".".join(words)
            if not all(words) or "=" in key:
                mistakes.append(
                    Mistake(("space", key), "must look like a key of the recipe: passes.0.ratio")
                )
            elif words[0] in _SAME:
                mistakes.append(
                    Mistake(
                        ("space", key),
                        f"{words[0]} has to be the same for trials that are compared; set it in "
                        f"the recipe",
                    )
                )
            elif plain in seen:
                mistakes.append(Mistake(("space", key), f"is {seen[plain]} once more"))
            seen[plain] = key
        return mistakes

    def _trial_mistakes(self) -> list[Mistake]:
        size = size_of(self.space)
        if self.sampler != "grid":
            if self.trials is None:
                return [Mistake((), f"required key 'trials' is missing: {self.sampler} needs it")]
            return []
        if size is None:
            endless = [key for key, item in self.space.items() if item.values is None]
            return [
                Mistake(("space", key), "has no end; give step or choices, or another sampler")
                for key in endless
            ]
        if size > MOST_POINTS:
            told = f"has {size:,} combinations, at most {MOST_POINTS:,} are tried"
            return [Mistake(("space",), f"{told}; use larger steps, or another sampler")]
        if self.trials is not None and self.trials != size:
            told = f"the grid has {counted(size, 'combination')}, got {self.trials}"
            return [Mistake(("trials",), f"{told}; leave it out, or take sampler: random")]
        return []

    @property
    def num_trials(self) -> int:
        """Return how many trials the sweep has."""
        found = self.trials if self.sampler != "grid" else size_of(self.space)
        assert found is not None, "the sweep was checked"
        return found

    @property
    def chooses_by(self) -> str:
        """Return the objective by which the best trial is chosen."""
        return self.choose or next(iter(self.objectives))

    @property
    def goes_by_time(self) -> bool:
        """Return whether trials have to be timed."""
        return not TIMES.isdisjoint({*self.objectives, *self.constraints.given})

    @property
    def path(self) -> Path | None:
        """Return the file this sweep was read from."""
        return None if self._source is None or not self._source.name else Path(self._source.name)

    @property
    def overrides(self) -> tuple[str, ...]:
        """Return the settings of the recipe that `load_sweep` was given."""
        return self._overrides

    @property
    def allows_code(self) -> bool:
        """Return whether code of the user's own may run that the recipe names."""
        return self._allows_code

    def recipe_at(self, point: Point) -> Recipe:
        """Return the recipe of a trial.

        Raises `RecipeError` as `load_recipe` does, with the places in the sweep file.
        """
        settings = settings_of(self.space, point)
        try:
            recipe = load_recipe(self.recipe, [*self._overrides, *settings])
        except RecipeError as error:
            raise RecipeError(
                [self._placed(line, settings) for line in error.mistakes], more=error.more
            ) from error
        return recipe.allowing_code() if self._allows_code else recipe

    def _placed(self, line: str, settings: Sequence[str]) -> str:
        """Return a mistake that an override made with the line of the sweep file before it."""
        for key, setting in zip(self.space, settings, strict=True):
            start = f"--set {setting}: "
            if line.startswith(start):
                return self.describe(("space", key), f"{setting}: {line.removeprefix(start)}")
        return line

    def describe(self, path: tuple[str, ...], message: str) -> str:
        """Return `file:line: key: message`."""
        assert self._source is not None, "a sweep is read from a file"
        return self._source.describe(path, message)


def load_sweep(
    path: str | Path, overrides: Sequence[str] = (), *, allow_code: bool = False
) -> Sweep:
    """Read a sweep file; `overrides` are settings of its recipe, `KEY=VALUE` each.

    Raises `RecipeError` with every mistake that the file holds.
    """
    path = Path(path)
    if is_folder(path):
        raise RecipeError(f"{path}: is a directory; give a sweep, a YAML file")
    text = read_text(path, "sweep")
    document = parse_document(
        text,
        str(path),
        noun="sweep",
        needs="recipe, space and objectives",
        such_as="recipe and space",
    )
    data = document.data
    if "passes" in data and "space" not in data:
        raise RecipeError(
            f"{path}: is a recipe; a sweep is a file of its own, which names one: recipe: "
            f"{path.name}, and the keys to try: space: {{passes.0.ratio: {{low: 0.2, high: 0.8}}}}"
        )
    context = {"base_dir": path.absolute().parent}
    try:
        sweep = Sweep.model_validate_json(json.dumps(data), strict=True, context=context)
    except ValidationError as error:
        mistakes = explain(error.errors(include_url=False), data, Sweep, {})
        lines = [document.describe(item.path, item.message) for item in mistakes]
        raise RecipeError(document.in_order([*document.mistakes, *lines])) from error
    if document.mistakes:
        raise RecipeError(document.in_order(document.mistakes))
    sweep._source, sweep._overrides, sweep._allows_code = document, tuple(overrides), allow_code
    return sweep
