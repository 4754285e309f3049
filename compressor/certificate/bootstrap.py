"""Bounds by resampling, for scores that are no share of examples.

Macro F1, Matthews' and Spearman's correlations are no means over examples; means of numbers are,
but no count bounds them. The scores here work on many resamples at once; on a single one they agree
with scikit-learn and SciPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Classes = NDArray[np.int64]
Floats = NDArray[np.float64]

# Outcomes and labels, both of shape (..., num_examples), to scores of shape (...).
MetricFunction = Callable[[Classes, Classes], Floats]

_NUMBERS_AT_ONCE = 2_000_000  # what one batch of resamples may hold


def f1_macro(outcomes: Classes, labels: Classes) -> Floats:
    """Return the mean F1 of the classes that occur in either array, as scikit-learn defines it."""
    hits, predicted, actual = _class_counts(outcomes, labels)  # each (..., num_classes)
    occurring = predicted + actual
    scores = np.divide(2 * hits, occurring, out=np.zeros_like(hits), where=occurring > 0)
    return np.asarray(scores.sum(axis=-1) / np.sum(occurring > 0, axis=-1))


def matthews_correlation(outcomes: Classes, labels: Classes) -> Floats:
    """Return the correlation of prediction and label; 0 when either is the same throughout.

    Ref: Gorodkin 2004, Computational Biology and Chemistry 28:367, for more than two classes.
    """
    hits, predicted, actual = _class_counts(outcomes, labels)  # each (..., num_classes)
    total = float(labels.shape[-1])
    covariance = hits.sum(axis=-1) * total - (predicted * actual).sum(axis=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (actual**2).sum(axis=-1))
    root = np.sqrt(spread)
    return np.asarray(np.divide(covariance, root, out=np.zeros_like(root), where=root > 0))


def spearman(values: Floats, grades: Floats) -> Floats:
    """Return the rank correlation of two arrays; 0 where either is the same throughout."""
    first, second = (_centred_ranks(numbers) for numbers in (values, grades))
    root = np.sqrt(np.sum(first**2, axis=-1) * np.sum(second**2, axis=-1))
    products = np.sum(first * second, axis=-1)
    return np.asarray(np.divide(products, root, out=np.zeros_like(root), where=root > 0))


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

    Raises `ValueError` when the score is the same in every resample.
    Ref: Efron 1987, JASA 82:171.
    """
    label, answer = _worst_flip(metric_function, before, after, labels)
    truth = np.append(labels, label)
    first, second = np.append(before, label), np.append(after, answer)

    def drop(drawn: Classes) -> Floats:
        return metric_function(first[drawn], truth[drawn]) - metric_function(
            second[drawn], truth[drawn]
        )

    return resampled_bound(
        drop,
        len(truth),
        name=metric_function.__name__,
        confidence=confidence,
        seed=seed,
        resamples=resamples,
    )


def resampled_bound(
    drop: Callable[[Classes], Floats],
    num_examples: int,
    *,
    name: str,
    confidence: float,
    seed: int,
    resamples: int,
) -> tuple[float, float]:
    """Return the one-sided upper bound of a drop (BCa) and its standard error.

    `drop` takes row numbers of shape `(..., num_examples)` and returns drops of shape `(...)`;
    `name` is what dropped, for errors. Raises `ValueError` when it is the same in every resample.
    Ref: Efron 1987, JASA 82:171.
    """

    def statistic(rows: NDArray[np.generic], axis: int) -> Floats:
        # SciPy hands the row numbers out as floats.
        return drop(np.moveaxis(rows, axis, -1).astype(np.int64))  # (..., num_examples)

    def resample(count: int, method: str, result: Any) -> Any:
        return stats.bootstrap(
            (np.arange(num_examples),),
            statistic,
            n_resamples=count,
            batch=max(1, _NUMBERS_AT_ONCE // num_examples),
            vectorized=True,
            axis=-1,
            confidence_level=confidence,
            alternative="less",
            method=method,
            bootstrap_result=result,
            rng=np.random.default_rng(seed),
        )

    drawn = resample(resamples, "percentile", None)
    if np.ptp(drawn.bootstrap_distribution) == 0:
        raise ValueError(
            f"{name}: the drop is the same in all {resamples} resamples, so it has no bound; give "
            f"more examples, or certify another metric"
        )
    result = resample(0, "BCa", drawn)
    return float(result.confidence_interval.high), float(result.standard_error)


def _worst_flip(
    metric_function: MetricFunction, before: Classes, after: Classes, labels: Classes
) -> tuple[int, int]:
    """Return label and new, wrong answer of the flip that raises the drop most."""
    answers = np.unique(np.concatenate([before, after, labels]))
    flips = [
        (int(label), int(answer))
        for label in np.unique(labels)
        for answer in answers
        if answer != label
    ]
    if not flips:
        raise ValueError(
            f"{metric_function.__name__}: labels and answers are all class {int(answers[0])}, so "
            f"nothing can be wrong; give examples of every class"
        )

    def drop(flip: tuple[int, int]) -> float:
        label, answer = flip
        truth = np.append(labels, label)
        return float(
            metric_function(np.append(before, label), truth)
            - metric_function(np.append(after, answer), truth)
        )

    return max(flips, key=drop)


def _centred_ranks(numbers: Floats) -> Floats:
    # (..., num_examples), ties share their mean
    ranks: Floats = np.asarray(stats.rankdata(numbers, axis=-1), dtype=np.float64)
    return np.asarray(ranks - ranks.mean(axis=-1, keepdims=True))


def _class_counts(outcomes: Classes, labels: Classes) -> tuple[Floats, Floats, Floats]:
    """Count hits, predictions and labels of each class: three of shape (..., num_classes)."""
    num_classes = int(max(outcomes.max(), labels.max())) + 1
    rows = labels.size // labels.shape[-1]
    offsets = num_classes * np.arange(rows)[:, None]
    shape = (*labels.shape[:-1], num_classes)

    def count(classes: Classes, chosen: NDArray[np.bool_] | None = None) -> Floats:
        cells = classes.reshape(rows, -1) + offsets
        kept = cells.ravel() if chosen is None else cells[chosen.reshape(rows, -1)]
        return np.bincount(kept, minlength=rows * num_classes).reshape(shape).astype(np.float64)

    return count(labels, outcomes == labels), count(outcomes), count(labels)
