"""How much accuracy a run may spend, and the verdict of a gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from compressor.errors import BudgetExceeded
from compressor.measurements import Score, TargetKind
from compressor.own_code import is_reference, resolved_reference, short_name
from compressor.setting_errors import Mistake, first_repeated, names_shown, rule_error

# Scores are sums of fractions: without a margin a drop of exactly max_drop could fail by 1e-17.
_ROUNDING = 1e-12
_MOST_ROWS = 10**12  # nobody has more; the reciprocal of the smallest floats is infinite


MISSED, RECALL_DROP = "max_missed", "max_recall_drop"  # keys
LABEL, LENGTH = "label", "length"  # the slices that are no column of the data
Slice = Annotated[str, StringConstraints(min_length=1)]


def _below_one(value: float) -> float:
    if value >= 1:
        raise ValueError(
            f"must be less than 1, got {value:.12g}; it is a part of the whole score, so that one "
            f"point is 0.01"
        )
    return value


Share = Annotated[float, Field(strict=True), AfterValidator(_below_one)]


ShareFrom0 = Annotated[Share, Field(ge=0)]
# One number for every kind of thing that can be found, or one for each by its name.
Limits = ShareFrom0 | Annotated[dict[Slice, ShareFrom0], Field(min_length=1, max_length=1000)]


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if (twice := first_repeated(values)) is not None:
        raise ValueError(f"names {names_shown([twice])} twice")
    return values


def _metric(name: str, info: ValidationInfo) -> str:
    """Return the name of a metric, or the reference to one of the user's own, resolved."""
    return resolved_reference(name, info) if ".py" in name else name


class CompressionTarget(BaseModel):
    """The recipe's `budget.target`: what to reach within the budget, in place of a fixed fraction.

    Exactly one of `max_megabytes`, `speedup` and `strongest` is given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_megabytes: Annotated[float, Field(strict=True)] | None = Field(
        None, gt=0, description="goal: the ONNX file has at most this size, in MB (10^6 bytes)"
    )
    speedup: Annotated[float, Field(strict=True)] | None = Field(
        None,
        gt=1,
        description="goal: at least this many times faster than the baseline; a ratio of median "
        "latencies on the first of benchmark.providers, timed in turns",
    )
    batch_size: int | None = Field(
        None, ge=1, le=65536, description="examples in one call for `speedup`; left out, 1"
    )
    sequence_length: int | None = Field(
        None,
        ge=2,
        le=65536,
        description="tokens of each text for `speedup`; left out, the first of "
        "benchmark.sequence_lengths; not used for images",
    )
    strongest: bool = Field(
        False,
        description="goal: the largest fraction with which every gate holds, true or left out",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        goals = (self.max_megabytes is not None, self.speedup is not None, self.strongest)
        if sum(goals) != 1:
            raise rule_error(
                [
                    Mistake(
                        (),
                        f"has {sum(goals)} goals; give one of max_megabytes, speedup and "
                        f"strongest: true",
                    )
                ]
            )
        shape = {"batch_size": self.batch_size, "sequence_length": self.sequence_length}
        unread = [name for name, value in shape.items() if value is not None]
        if unread and self.speedup is None:
            raise rule_error(
                [Mistake((name,), f"is only for speedup, not {self.kind}") for name in unread]
            )
        return self

    @property
    def kind(self) -> TargetKind:
        """Return which goal is given."""
        if self.strongest:
            return "strongest"
        return "speedup" if self.max_megabytes is None else "max_megabytes"


class AccuracyBudget(BaseModel):
    """The recipe's `budget`: one metric, and how far it may fall below the untouched checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: Annotated[str, AfterValidator(_metric)] | None = Field(
        None,
        description="score that is judged, one of those of the task, or a function of your own, "
        "such as my_metric.py:ndcg, which runs with --allow-code alone; left out, the first of "
        "the task's",
    )
    max_drop: Share = Field(
        ge=0,
        description="how far the score may fall below the untouched checkpoint's, all passes "
        "together, as a part of the whole score: 0.01 is one point",
    )

    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        description="how sure a proof has to be: the chance that the bound on the drop holds",
    )

    slices: Annotated[tuple[Slice, ...], AfterValidator(_each_once)] = Field(
        default=(),
        max_length=100,
        description="groups of rows that are judged by themselves: label (each class), length "
        "(short, medium and long texts), or a column of the data file (each of its values)",
    )
    max_slice_drop: Share | None = Field(
        default=None,
        ge=0,
        description="how far the score of any slice may fall: one that is proven to have fallen "
        "further ends the run with exit code 5; left out, slices are compared with max_drop and "
        "only reported",
    )

    max_slice_gap: Share | None = Field(
        default=None,
        ge=0,
        exclude_if=lambda value: value is None,
        description="how much further the error rate of one group may rise than that of another, "
        "of label, length or one column of slices: a difference that is proven to be larger ends "
        "the run with exit code 5; left out, differences are only reported",
    )

    max_missed: Limits | None = Field(
        default=None,
        description="how much of what the untouched checkpoint finds may be missed, as a part of "
        "it, for each class or type of entity: one number for all of them, or a number for each by "
        "its name; it needs no labels, and is judged after every pass and proven like max_drop",
    )
    max_recall_drop: Limits | None = Field(
        default=None,
        description="how far the recall of a class or type of entity may fall below the untouched "
        "checkpoint's, by the labels; else as max_missed",
    )

    min_attribution_agreement: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        strict=True,
        exclude_if=lambda value: value is None,
        description="how far what predictions rest on has to stay: the mean rank correlation of "
        "attributions (by occlusion, token by token or patch by patch) with the untouched "
        "checkpoint's, on rows drawn once; judged after every pass and proven like max_drop",
    )

    target: CompressionTarget | None = Field(
        default=None,
        description="a size or speed to reach in place of a fixed fraction: the run searches the "
        "fraction of the one pass that has one, such as the ratio of prune_structured, and the "
        "fraction in the recipe is the most that it may take",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        limits = {"max_slice_drop": self.max_slice_drop, "max_slice_gap": self.max_slice_gap}
        given = [name for name, limit in limits.items() if limit is not None]
        if given and not self.slices:
            raise rule_error(
                [
                    Mistake((name,), "there are no slices; name them in budget.slices")
                    for name in given
                ]
            )
        return self

    @property
    def metric_name(self) -> str | None:
        """Return what scores call the metric: one of the user's own without its folder."""
        return self.metric if self.own_metric is None else short_name(self.own_metric)

    @property
    def own_metric(self) -> str | None:
        """Return the function that the metric is, where it is the user's own."""
        return self.metric if self.metric is not None and is_reference(self.metric) else None

    @property
    def misses(self) -> dict[str, Limits]:
        """Return the budgets on what must not be missed, by their keys."""
        both = {MISSED: self.max_missed, RECALL_DROP: self.max_recall_drop}
        return {key: limits for key, limits in both.items() if limits is not None}

    @property
    def slice_columns(self) -> tuple[str, ...]:
        """Return the slices that are columns of the data file."""
        return tuple(name for name in self.slices if name not in (LABEL, LENGTH))

    def resolution_mistake(self, num_examples: int) -> str | None:
        """Return what is wrong when one example already weighs more than a nonzero `max_drop`.

        A budget of exactly zero is fine: it asks that nothing is lost at all.
        """
        if self.max_drop == 0 or self.max_drop >= 1 / num_examples:
            return None
        examples = f"one of the {num_examples:,} examples"
        if num_examples == 1:
            examples = "the only example"
        return (
            f"{self.max_drop:g} is finer than {examples} of the search split (1/{num_examples} = "
            f"{1 / num_examples:.4g}), so no measurement could honour it; give data.search at "
            f"least {math.ceil(min(1 / self.max_drop, _MOST_ROWS)):,} rows or raise max_drop"
        )

    def drop(self, baseline: Score, score: Score) -> float:
        """Return how far `score` lies below `baseline`; negative when it is better."""
        return baseline.value - score.value

    def holds(self, baseline: Score, score: Score) -> bool:
        """Return whether `score` is at most `max_drop` below `baseline`; a NaN never is."""
        return self.drop(baseline, score) <= self.max_drop + _ROUNDING

    def gate(
        self,
        step: str,
        baseline: Score,
        score: Score,
        *,
        tried: Sequence[str] = (),
        earlier: tuple[str, float] | None = None,
    ) -> None:
        """Raise `BudgetExceeded` when `step` left the score too far below the baseline.

        `tried` and `earlier` are told in the error.
        """
        if not self.holds(baseline, score):
            raise BudgetExceeded(
                step,
                metric=score.metric,
                drop=self.drop(baseline, score),
                max_drop=self.max_drop,
                tried=tried,
                earlier=earlier,
            )
