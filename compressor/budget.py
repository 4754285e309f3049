"""How much accuracy a run may spend, and the verdict of a gate."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from compressor.errors import BudgetExceeded
from compressor.measurements import Score

# Scores are sums of fractions: without a margin a drop of exactly max_drop could fail by 1e-17.
_ROUNDING = 1e-12


class AccuracyBudget(BaseModel):
    """The recipe's `budget`: one metric, and how far it may fall below the untouched checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str | None = Field(
        None,
        description="metric of the task; left out, its first one; agreement needs no labels: the "
        "share of answers that equal the untouched checkpoint's",
    )
    max_drop: Annotated[float, Field(strict=True)] = Field(
        ge=0,
        lt=1,
        description="largest drop below the baseline, absolute (0.01 is one point); cumulative",
    )

    confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="of the certificate: how sure the bound on the drop must be, one-sided",
    )

    def resolution_mistake(self, num_examples: int) -> str | None:
        """Return what is wrong when one example already weighs more than a nonzero `max_drop`.

        A budget of exactly zero is fine: it asks that nothing is lost at all.
        """
        if self.max_drop == 0 or self.max_drop >= 1 / num_examples:
            return None
        return (
            f"{self.max_drop:g} is finer than one of the {num_examples} examples of the search "
            f"split (1/{num_examples} = {1 / num_examples:.4g}), so no measurement could honour "
            f"it; give data.search at least {math.ceil(1 / self.max_drop)} rows or raise max_drop"
        )

    def drop(self, baseline: Score, score: Score) -> float:
        """Return how far `score` lies below `baseline`; negative when it is better."""
        return baseline.value - score.value

    def gate(self, step: str, baseline: Score, score: Score) -> None:
        """Raise `BudgetExceeded` when `step` left the score too far below the baseline."""
        drop = self.drop(baseline, score)
        if not drop <= self.max_drop + _ROUNDING:  # a NaN score fails too
            raise BudgetExceeded(step, metric=score.metric, drop=drop, max_drop=self.max_drop)
