"""Verdicts about scores to which every example contributes a number and not a class.

Such are the means over texts of a cosine similarity or of the share of kept neighbours, and the
rank correlation of similarities with grades. Their bounds are paired bootstraps (BCa) over texts,
or over pairs of texts. A bootstrap sees nothing that did not happen, so, as for the other scores,
one example is added that lost everything: with n examples that costs about 4 / n of the budget.

The candidates among which neighbours are looked for stay as they are: what is bounded is the mean
over texts that could be asked, against this collection of texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate.bootstrap import (
    Drop,
    Floats,
    MeanDrop,
    resampled_bound,
)
from compressor.certificate.certify import (
    Booleans,
    Limits,
    Observed,
    draw_bootstrap_verdict,
    draw_verdict,
)
from compressor.certificate.power import examples_for_agreement
from compressor.certificate.ranks import SpearmanDrop, spearman
from compressor.measurements import Certificate

_ROUNDING = 1e-6  # differences below it are summation order, and no win or loss
_MOST_FALLEN = 2.0  # of a cosine similarity or a correlation, from 1 to -1


def certify_mean(
    metric: str,
    before: Floats,
    after: Floats,
    *,
    units: str = "examples",
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Certify the drop of a mean of numbers of at most 1, both arrays `(num_units,)`.

    `units` names what there is a number of each. The one that is added fell from 1 to 0. Wins and
    losses count the numbers that rose and fell. Raises `ValueError` when the arrays are empty or do
    not pair up, a number is not finite or above 1, or a setting is out of range.
    """
    limits = Limits(max_drop, confidence)
    _check_numbers(before=before, after=after)
    if (largest := max(before.max(), after.max())) > 1 + _ROUNDING:
        raise ValueError(f"{metric}: no number may be above 1, got {largest:g}")
    fallen = before - after

    def drops() -> tuple[Drop, Drop]:
        extended = np.append(fallen, 1.0)
        return MeanDrop.of_rows(metric, fallen), MeanDrop.of_rows(metric, extended)

    def bound(losses: Floats) -> tuple[float, float]:
        extended = np.append(losses, 1.0)
        if np.ptp(extended) <= _ROUNDING:  # all fell from 1 to 0, and there is nothing to resample
            return 1.0, 0.0
        drop = MeanDrop.of_rows(metric, extended)
        return resampled_bound(drop, confidence=confidence, seed=seed, resamples=resamples)

    return draw_bootstrap_verdict(
        _observed(metric, float(fallen.mean()), fallen),
        limits,
        bounds=(bound(fallen), bound(-fallen)),
        drops=drops,
        method=f"paired BCa bootstrap over {units}, {resamples} resamples, one loss of 1 added",
    )


def certify_quantile(
    metric: str,
    before: Floats,
    after: Floats,
    *,
    quantile: float,
    units: str = "examples",
    max_drop: float,
    confidence: float = 0.95,
) -> Certificate:
    """Certify how far a low quantile of numbers fell that were all the same, both `(num_units,)`.

    The bounds are numbers that fell as far, chosen by their ranks, and exact whatever their
    distribution: the drop is certified where Clopper and Pearson's bound of the share of units that
    fell by more than `max_drop` is at most `quantile`. Losses count those units. So few that no
    rank will do prove nothing: with a quantile of 0.05 and 95% confidence it takes 59.

    Raises as `certify_mean` does, and `ValueError` where the numbers `before` differ.
    Ref: David & Nagaraja 2003, Order Statistics, section 7.1.
    """
    limits = Limits(max_drop, confidence)
    _check_numbers(before=before, after=after)
    if np.ptp(before) > _ROUNDING:
        raise ValueError(
            f"{metric}: the untouched checkpoint's numbers must all be the same, got "
            f"{before.min():g} to {before.max():g}"
        )
    total = len(before)
    fallen = np.sort(before - after)[::-1]  # the furthest first
    drop = float(fallen[math.ceil(round(quantile * total, 9)) - 1])
    ranks = np.arange(total + 1)
    chances = stats.binom.cdf(ranks, total, quantile)  # of so many units beyond the quantile
    # The furthest rank that lies beyond the quantile with confidence, and the first that does not.
    upper = int(np.sum(chances <= 1 - confidence)) - 1
    lower = int(np.argmax(chances >= confidence))
    lost = int(np.sum(fallen > max_drop))

    def needed() -> int | None:
        return examples_for_agreement(
            lost / total, max_drop=quantile, confidence=confidence, more_than=total
        )

    return draw_verdict(
        Observed(metric, drop, total, wins=0, losses=lost),
        limits,
        upper_bound=_MOST_FALLEN if upper < 0 else float(fallen[upper]),
        lower_bound=min(drop, 0.0) if lower >= total else float(fallen[lower]),
        needed=needed,
        method=f"exact binomial bound of the share of {units} that fell further",
    )


def certify_correlation(
    metric: str,
    before: Floats,
    after: Floats,
    grades: Floats,
    *,
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Certify the drop of the rank correlation with `grades`; all arrays are `(num_pairs,)`.

    The pair that is added has the highest or the lowest grade, whichever harms more, fits it before
    and contradicts it after. Losses count the pairs whose rank moved away from that of their grade,
    wins those that came nearer. Raises as `certify_mean` does.
    """
    limits = Limits(max_drop, confidence)
    _check_numbers(before=before, after=after, grades=grades)

    def drops() -> tuple[Drop, Drop]:
        worst = _with_worst_pair(before, after, grades)
        drop = SpearmanDrop.of_rows(metric, before, after, grades)
        return drop, SpearmanDrop.of_rows(metric, *worst)

    def bound(first: Floats, second: Floats) -> tuple[float, float]:
        drop = SpearmanDrop.of_rows(metric, *_with_worst_pair(first, second, grades))
        return resampled_bound(drop, confidence=confidence, seed=seed, resamples=resamples)

    drop = float(spearman(before, grades) - spearman(after, grades))
    return draw_bootstrap_verdict(
        _observed(metric, drop, _moved_away(before, after, grades)),
        limits,
        bounds=(bound(before, after), bound(after, before)),
        drops=drops,
        method=f"paired BCa bootstrap over pairs, {resamples} resamples, one flip added",
    )


def certify_each(
    slices: Mapping[str, Booleans],
    certify: Callable[[Booleans, float], Certificate],
    *,
    confidence: float = 0.95,
) -> dict[str, Certificate]:
    """Certify each slice so that with `confidence` not one of them is certified wrongly.

    A slice is a mask of shape `(num_units,)`, and `certify` gives its certificate with a confidence
    of its own. A bootstrap gives bounds and no p-values that Holm's procedure could order, so each
    slice is tested at (1 - confidence) / number of slices (Bonferroni), which is never less strict.
    Raises `ValueError` for an empty slice, and as `certify` does.
    """
    empty = [name for name, mask in slices.items() if not mask.any()]
    if empty or not slices:
        raise ValueError(f"slices: each must hold at least one example, empty: {empty or 'all'}")
    level = 1 - (1 - confidence) / len(slices)
    return {name: certify(mask, level) for name, mask in slices.items()}


def _observed(metric: str, drop: float, fallen: Floats) -> Observed:
    """Return the drop with the number of examples, of those that rose and of those that fell."""
    wins, losses = int(np.sum(fallen < -_ROUNDING)), int(np.sum(fallen > _ROUNDING))
    return Observed(metric, drop, len(fallen), wins, losses)


def _with_worst_pair(
    before: Floats, after: Floats, grades: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return the arrays with the pair added that raises the drop most."""

    def extended(fits: int) -> tuple[Floats, Floats, Floats]:
        ends = [(numbers.min() - 1, numbers.max() + 1) for numbers in (before, after)]
        grade = (grades.min(), grades.max())[fits]
        return (
            np.append(before, ends[0][fits]),
            np.append(after, ends[1][1 - fits]),
            np.append(grades, grade),
        )

    def drop(arrays: tuple[Floats, Floats, Floats]) -> float:
        old, new, truth = arrays
        return float(spearman(old, truth) - spearman(new, truth))

    return max((extended(0), extended(1)), key=drop)


def _moved_away(before: Floats, after: Floats, grades: Floats) -> Floats:
    """Return by how many ranks each pair moved away from the rank of its grade."""
    wanted = _ranks(grades)
    moved: Floats = np.abs(_ranks(after) - wanted) - np.abs(_ranks(before) - wanted)
    return moved


def _ranks(numbers: Floats) -> Floats:
    ranks: Floats = np.argsort(np.argsort(numbers, kind="stable"), kind="stable").astype(np.float64)
    return ranks


def _check_numbers(**arrays: NDArray[np.float64]) -> None:
    length = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        if array.shape != (length,) or length == 0 or not np.isfinite(array).all():
            raise ValueError(
                f"{name}: must be a finite number for each example, the same examples as in "
                f"{next(iter(arrays))}, got shape {array.shape}"
            )
