"""What a score is: the declarations by which gates, certificates and reports treat each metric.

A task lists its own; nothing else in the package knows one by its name. Higher is better for every
metric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Sums over units, shape (..., num_sums), to scores of shape (...).
Statistic = Callable[[Floats], Floats]
# What units add, (num_units, num_sums), and their total, (num_sums,), to what the same units would
# add had everything in them been lost.
Lost = Callable[[Floats, Floats], Floats]


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return `part` over `whole`, 0 where `whole` is 0.

    >>> ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def first_over_second(sums: Floats) -> Floats:
    """Return the first of two sums over the second, of shape `(..., 2)`: right things, things."""
    return ratio(sums[..., 0], sums[..., 1])


def none_of_it(units: Floats, total: Floats) -> Floats:  # noqa: ARG001 - a unit loses its own alone
    """Return what units of `first_over_second` add once nothing in them is right."""
    return np.asarray(units * [0.0, 1.0])


# How the drop of a score is bounded.
# hits: a share of examples, each right or wrong. flips: the share of predictions that are those of
# the untouched checkpoint. classes: a function of how often each class was predicted and labelled.
# mean: the mean of `Score.shares`, numbers of at most 1. correlation: the rank correlation of
# `Score.shares` with what the split says. sums: `Metric.statistic` of the sums of `Score.sums`.
# quantile: the number that all but `Metric.quantile` of `Score.shares` reach, where those of the
# untouched checkpoint are all the same.
Bound = Literal["hits", "flips", "classes", "mean", "correlation", "sums", "quantile"]


@dataclass(frozen=True)
class UsualDrop:
    """How far a score usually falls, fractions: by fp16, by int8, and by pruning and int8."""

    half: float
    int8: float
    pruned: float


@dataclass(frozen=True)
class Metric:
    """One score of a task.

    `unit` and `units` name what it counts: an example, a text, a pair of texts, a query with its
    candidates, a document. Units are taken as independent of one another; what belongs together,
    such as the entities of a document, must be one unit.
    """

    name: str
    words: str  # in a sentence, such as "macro F1"
    explained: str  # what it is, for people who do not know it
    bound: Bound
    label_free: bool = False  # it compares with the untouched checkpoint's outputs
    # It has labels, and reads some of the untouched checkpoint's outputs all the same.
    reads_reference: bool = False
    same_width: bool = False  # it compares numbers with the untouched checkpoint's, one by one
    percent: bool = True  # shown as per cent; a correlation is shown as it is
    unit: str = "row"
    units: str = "rows"
    statistic: Statistic | None = field(default=None, repr=False, compare=False)
    lost: Lost | None = field(default=None, repr=False, compare=False)
    quantile: float | None = None  # of a bound of that name, such as 0.05
    usual_drop: UsualDrop = UsualDrop(0.0005, 0.002, 0.006)
    # The budgets that a starter recipe may have, fractions: the least, and the most that is worth a
    # proof, without pruning and with it (0: pruning loses more than anybody allows).
    least_drop: float = 0.01
    most_drop: float = 0.05
    most_pruned_drop: float = 0.03

    def __post_init__(self) -> None:
        """Raise `ValueError` for a bound that lacks what it is taken from."""
        if self.bound == "sums" and (self.statistic is None or self.lost is None):
            raise ValueError(f"{self.name}: a bound of sums needs statistic and lost")
        if (self.bound == "quantile") != (self.quantile is not None):
            raise ValueError(f"{self.name}: quantile goes with a bound of that name, and with none")

    @property
    def is_fine(self) -> bool:
        """Return whether the score moves by less than one example in all of them."""
        return self.bound in ("mean", "correlation", "sums", "quantile")

    def value_of(self, shares: Floats) -> float:
        """Return the score of numbers, shape `(num_units,)`: their mean, or one of themselves.

        With `quantile` it is the largest that all but this share of them reach.
        """
        if self.quantile is None:
            return float(np.mean(shares))
        return float(np.quantile(shares, self.quantile, method="inverted_cdf"))


AGREEMENT = Metric(
    "agreement",
    "agreement",
    "the share of examples that get the untouched checkpoint's prediction, so that no labels are "
    "needed; the share of right predictions cannot fall by more than is missing of it",
    "flips",
    label_free=True,
)
SPEARMAN = Metric(
    "spearman",
    "Spearman correlation",
    "the rank correlation of what the model says of each row, of vectors the cosine similarity of "
    "a pair of texts, with the number that the data has for it, from -1 to 1",
    "correlation",
    percent=False,
    usual_drop=UsualDrop(0.005, 0.03, 0.08),
    least_drop=0.02,  # few numbers move a correlation by a point
)

_OF_QUERIES = UsualDrop(0.001, 0.0075, 0.025)
# Of the candidates of a query that a reranker orders, or of all documents that an encoder finds.
NDCG = Metric(
    "ndcg@10",
    "NDCG@10",
    "how high the ten best of a query place what is relevant: the labels, each over log2 of its "
    "place + 1, as a share of what the best order gives, averaged over queries",
    "mean",
    unit="query",
    units="queries",
    usual_drop=_OF_QUERIES,
)
MRR = Metric(
    "mrr@10",
    "MRR@10",
    "1 over the place of the first among a query's ten best that is relevant (label above 0), 0 "
    "below them, averaged over queries",
    "mean",
    unit="query",
    units="queries",
    usual_drop=_OF_QUERIES,
)
