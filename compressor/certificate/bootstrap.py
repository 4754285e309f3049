"""Bounds by resampling, for scores that are no share of examples.

Macro F1, Matthews' and Spearman's correlations are no means over examples; means of numbers are,
but no count bounds them. On a single sample the scores here agree with scikit-learn and SciPy.

The bound is the bias-corrected and accelerated bootstrap (BCa). It needs the drop on thousands of
resamples, and the drop without each example in turn. Both are computed from how often each row
occurs and not row by row: rows that are equal share one cell of a table, a resample is a draw of
the counts of the cells, and the drop without one example is that of its cell. So the work grows
with the number of examples, or of cells where those are few, and never with its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from compressor.errors import StepFailed

Classes = NDArray[np.int64]
Floats = NDArray[np.float64]

_NUMBERS_AT_ONCE = 2_000_000  # what one batch of resamples may hold
# Drawing the count of a cell takes as long as drawing about so many rows.
_ROWS_PER_CELL = 20


@dataclass(frozen=True)
class ClassCounts:
    """How often each class was hit, predicted and labelled: three of shape `(..., num_classes)`."""

    hits: Floats
    predicted: Floats
    actual: Floats


# Counts with classes along the last axis to scores of shape `(...)`.
MetricFunction = Callable[[ClassCounts], Floats]


def f1_macro(counts: ClassCounts) -> Floats:
    """Return the mean F1 of the classes that occur at all, as scikit-learn defines it."""
    occurring = counts.predicted + counts.actual
    zeros = np.zeros_like(occurring)
    scores = np.divide(2 * counts.hits, occurring, out=zeros, where=occurring > 0)
    return np.asarray(scores.sum(axis=-1) / np.sum(occurring > 0, axis=-1))


def matthews_correlation(counts: ClassCounts) -> Floats:
    """Return the correlation of prediction and label; 0 when either is the same throughout.

    Ref: Gorodkin 2004, Computational Biology and Chemistry 28:367, for more than two classes.
    """
    total = counts.actual.sum(axis=-1)
    covariance = counts.hits.sum(axis=-1) * total - (counts.predicted * counts.actual).sum(axis=-1)
    spread = (total**2 - (counts.predicted**2).sum(axis=-1)) * (
        total**2 - (counts.actual**2).sum(axis=-1)
    )
    root = np.sqrt(spread)
    return np.asarray(np.divide(covariance, root, out=np.zeros_like(root), where=root > 0))


def count_classes(outcomes: Classes, labels: Classes) -> ClassCounts:
    """Count what a metric is made of; both arrays have shape `(num_examples,)`."""
    size = int(max(outcomes.max(), labels.max())) + 1

    def count(classes: Classes) -> Floats:
        return np.bincount(classes, minlength=size).astype(np.float64)

    return ClassCounts(count(labels[outcomes == labels]), count(outcomes), count(labels))


class Drop(Protocol):
    """A drop as a function of how often each cell occurs; equal examples share a cell."""

    @property
    def name(self) -> str:
        """Return what dropped, for errors."""

    @property
    def counts(self) -> Classes:
        """Return how many examples each cell holds, at least one, shape `(num_cells,)`."""

    def of(self, counts: Floats) -> Floats:
        """Return the drops of counts of shape `(batch, num_cells)`, as `(batch,)`."""

    def without_one(self) -> Floats:
        """Return the drop without one example of each cell, shape `(num_cells,)`."""


def bca_upper_bound(
    metric_function: MetricFunction,
    before: Classes,
    after: Classes,
    labels: Classes,
    *,
    confidence: float,
    seed: int,
    resamples: int,
) -> tuple[float, float]:
    """Return the upper bound of the score's drop and the standard error of the drop.

    A bootstrap sees only the flips that happened; without any it would call the drop exactly zero.
    So one example is added: right before, wrong after, placed where it moves the score most. For a
    plain rate without flips the bound is then 4 or 5 / num_examples, where the exact one is 3.

    Raises `StepFailed` when the score is the same in every resample.
    Ref: Efron 1987, JASA 82:171.
    """
    # Ids may have gaps; only classes that occur take room.
    present, ids = np.unique(np.stack([before, after, labels]), return_inverse=True)
    if len(present) == 1:
        raise StepFailed(
            f"{metric_function.__name__}: labels and predictions are all class "
            f"{int(present[0])}, so nothing can be wrong; give examples of every class"
        )
    table = MetricDrop.of_rows(metric_function, *ids.reshape(3, -1), num_classes=len(present))
    return resampled_bound(
        table.with_worst_flip(), confidence=confidence, seed=seed, resamples=resamples
    )


@dataclass(frozen=True)
class MetricDrop:
    """The drop of a score of classes, by the cells (before, after, label) that occur."""

    metric: MetricFunction
    cells: Classes  # (num_cells, 3)
    counts: Classes
    num_classes: int

    @classmethod
    def of_rows(
        cls,
        metric: MetricFunction,
        before: Classes,
        after: Classes,
        labels: Classes,
        *,
        num_classes: int,
    ) -> MetricDrop:
        """Count the cells of examples whose classes are 0 to `num_classes` - 1."""
        shape = (num_classes,) * 3
        numbers = np.ravel_multi_index((before, after, labels), shape)
        found, counts = np.unique(numbers, return_counts=True)
        cells = np.stack(np.unravel_index(found, shape), axis=-1)
        return cls(metric, cells, counts, num_classes)

    @property
    def name(self) -> str:
        """Return the name of the metric."""
        return self.metric.__name__

    def of(self, counts: Floats) -> Floats:
        """Return the drops of counts of shape `(batch, num_cells)`."""
        before, after, labels = self.cells.T
        actual = self._by_class(labels, counts)

        def score(outcomes: Classes) -> Floats:
            hits = self._by_class(labels, counts * (outcomes == labels))
            return self.metric(ClassCounts(hits, self._by_class(outcomes, counts), actual))

        return np.asarray(score(before) - score(after))

    def without_one(self) -> Floats:
        """Return the drop without one example of each cell: at most three classes change."""
        return self._after_adding(self.cells, -1)

    def with_worst_flip(self) -> MetricDrop:
        """Return the table with one more flip, the one from right to wrong that harms most."""
        classes = np.arange(self.num_classes)
        labels = np.unique(self.cells[:, 2])
        pairs = np.stack(np.meshgrid(labels, classes, indexing="ij"), axis=-1).reshape(-1, 2)
        label, prediction = pairs[pairs[:, 0] != pairs[:, 1]].T
        flips = np.stack([label, prediction, label], axis=-1)
        worst = flips[int(np.argmax(self._after_adding(flips, 1)))]
        same = np.flatnonzero((self.cells == worst).all(axis=1))
        if len(same):
            counts = self.counts.copy()
            counts[same[0]] += 1
            return MetricDrop(self.metric, self.cells, counts, self.num_classes)
        cells, counts = np.vstack([self.cells, worst]), np.append(self.counts, 1)
        return MetricDrop(self.metric, cells, counts, self.num_classes)

    def _after_adding(self, cells: Classes, amount: int) -> Floats:
        """Return the drops with `amount` examples more of each of `cells`, one after the other."""
        before, after, labels = self.cells.T
        counts = self.counts.astype(np.float64)
        size = self.num_classes

        def total(classes: Classes, weights: Floats) -> Floats:
            return np.asarray(np.bincount(classes, weights, minlength=size), np.float64)

        def score(outcomes: Classes, place: int) -> Iterator[Floats]:
            hits = total(labels, counts * (outcomes == labels))
            predicted, actual = total(outcomes, counts), total(labels, counts)
            step = max(1, _NUMBERS_AT_ONCE // size)
            for start in range(0, len(cells), step):
                part = cells[start : start + step]
                rows, prediction, label = np.arange(len(part)), part[:, place], part[:, 2]
                own = [np.tile(numbers, (len(part), 1)) for numbers in (hits, predicted, actual)]
                own[0][rows, label] += amount * (prediction == label)
                own[1][rows, prediction] += amount
                own[2][rows, label] += amount
                yield self.metric(ClassCounts(*own))

        old, new = (np.concatenate(list(item)) for item in (score(before, 0), score(after, 1)))
        return np.asarray(old - new)

    def _by_class(self, classes: Classes, counts: Floats) -> Floats:
        """Add up counts `(batch, num_cells)` over the cells of each class."""
        places = (np.arange(len(classes)), classes)
        shape = (len(classes), self.num_classes)
        return np.asarray(counts @ sparse.csr_array((np.ones(len(classes)), places), shape=shape))


@dataclass(frozen=True)
class MeanDrop:
    """The mean of what each example lost, by the losses that occur."""

    name: str
    losses: Floats  # (num_cells,), each another one
    counts: Classes

    @classmethod
    def of_rows(cls, name: str, losses: Floats) -> MeanDrop:
        """Count the losses that are equal."""
        values, counts = np.unique(losses, return_counts=True)
        return cls(name, values, counts)

    def of(self, counts: Floats) -> Floats:
        """Return the means of counts of shape `(batch, num_cells)`."""
        return np.asarray(counts @ self.losses / counts.sum(axis=-1))

    def without_one(self) -> Floats:
        """Return the mean without one example of each cell."""
        total = int(self.counts.sum())
        return np.asarray((float(self.counts @ self.losses) - self.losses) / (total - 1))


@dataclass(frozen=True)
class Resampled:
    """A drop on thousands of resamples, with the two corrections of BCa."""

    drawn: Floats  # (resamples,)
    bias: float
    acceleration: float

    @classmethod
    def of(cls, drop: Drop, *, seed: int, resamples: int) -> Resampled:
        """Draw the resamples; raises `StepFailed` when the drop is the same in every one."""
        drawn = np.concatenate([drop.of(counts) for counts in _draw(drop.counts, resamples, seed)])
        # A sum of the same numbers in another order differs in its last digits.
        if np.ptp(drawn) <= 1e-13 * np.max(np.abs(drawn)):
            raise StepFailed(
                f"{drop.name}: the drop is the same in all {resamples} resamples, so it has no "
                f"bound; give more examples, or certify another metric"
            )
        [observed] = drop.of(drop.counts[None].astype(np.float64))
        below = (np.mean(drawn < observed) + np.mean(drawn <= observed)) / 2
        if not 0 < below < 1:
            raise StepFailed(
                f"{drop.name}: the drop lies outside of all {resamples} resamples, so it has no "
                f"bound; give more examples, or certify another metric"
            )
        return cls(drawn, float(stats.norm.ppf(below)), acceleration(drop))

    def bound(self, confidence: float) -> float:
        """Return the one-sided upper bound of the drop."""
        shifted = self.bias + float(stats.norm.ppf(confidence))
        # An acceleration is at most 1/6, so the pole is at 6 standard deviations or beyond.
        share = stats.norm.cdf(self.bias + shifted / (1 - self.acceleration * shifted))
        return float(np.quantile(self.drawn, share))

    def p_value(self, max_drop: float) -> float:
        """Return how likely so small a drop is where the true one is above `max_drop`.

        It is 1 minus the confidence with which `bound` reaches `max_drop`.
        """
        share = (np.mean(self.drawn < max_drop) + np.mean(self.drawn <= max_drop)) / 2
        size = len(self.drawn)
        place = float(stats.norm.ppf(np.clip(share, 0.5 / size, 1 - 0.5 / size))) - self.bias
        # Beyond the pole no confidence is too high.
        shifted = place / (1 + self.acceleration * place)
        if 1 + self.acceleration * place <= 0:
            return 0.0 if place > 0 else 1.0
        return float(stats.norm.sf(shifted - self.bias))


def resampled_bound(
    drop: Drop, *, confidence: float, seed: int, resamples: int
) -> tuple[float, float]:
    """Return the one-sided upper bound of a drop (BCa) and its standard error.

    Raises `StepFailed` when the drop is the same in every resample.
    Ref: Efron 1987, JASA 82:171.
    """
    found = Resampled.of(drop, seed=seed, resamples=resamples)
    return found.bound(confidence), float(np.std(found.drawn, ddof=1))


def acceleration(drop: Drop) -> float:
    """Return a sixth of the skewness of what each example contributes, by the jackknife.

    0 where no example contributes more than another: nothing is skewed then.
    Ref: Efron 1987, JASA 82:171, eq. 6.6.
    """
    left_out = drop.without_one()
    weights = drop.counts / drop.counts.sum()
    influence = weights @ left_out - left_out
    variance = float(weights @ influence**2)
    if variance <= (1e-13 * float(np.max(np.abs(left_out)))) ** 2:
        return 0.0
    skewness = float(weights @ influence**3) / variance**1.5
    return float(skewness / (6 * math.sqrt(drop.counts.sum())))


def _draw(counts: Classes, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield batches of resampled counts, `(batch, num_cells)`: as many examples, drawn again."""
    random = np.random.default_rng(seed)
    total, cells = int(counts.sum()), len(counts)
    step = max(1, _NUMBERS_AT_ONCE // cells)
    by_cell = cells * _ROWS_PER_CELL < total
    cell_of = None if cells == total else np.repeat(np.arange(cells), counts)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if by_cell:
            yield random.multinomial(total, counts / total, size=size).astype(np.float64)
            continue
        drawn = np.empty((size, cells))
        for row in drawn:
            rows = random.integers(total, size=total, dtype=np.uint32)
            row[:] = np.bincount(rows if cell_of is None else cell_of[rows], minlength=cells)
        yield drawn
