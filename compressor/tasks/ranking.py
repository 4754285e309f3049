"""Scores of numbers that a model gives: how well they order candidates, and how near they are.

A group is a query with its candidates. Candidates that get the same number are in no order: a
metric is then its mean over all orders of them, so that a model which gives every candidate the
same number scores what a random order does, and the order of rows never helps.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]  # (num_rows,): the number of each row's group, from 0 on

# A spread of resampled numbers that is less than this share of what it is made of is rounding.
_ROUNDING = 1e-12
_PAIRS_AT_ONCE = 4_000_000  # of candidates


def group_numbers(values: NDArray[Any]) -> Groups:
    """Return 0 for the rows with the value that comes first, 1 for the next one, and so on.

    >>> group_numbers(np.array(["b", "a", "b"])).tolist()
    [0, 1, 0]
    """
    _, first, numbers = np.unique(values, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return np.asarray(order[numbers.reshape(-1)])


def groups_by_text(values: Sequence[Any]) -> Groups:
    """Return the groups of rows whose values read the same as text, numbered as `group_numbers`.

    Values are told apart by 64 bits of a hash, so that memory does not grow with texts: that two
    of millions share them by chance has a probability below one in a million.
    """
    digests = (
        hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for value in values
    )
    numbers = (int.from_bytes(digest, "big") for digest in digests)
    return group_numbers(np.fromiter(numbers, dtype=np.uint64, count=len(values)))


def differ_within(values: NDArray[Any], groups: Groups) -> NDArray[np.bool_]:
    """Return which groups hold more than one value, shape `(num_groups,)`."""
    comparable = values.astype(str) if values.dtype == object else values
    numbers = np.unique(comparable, return_inverse=True)[1].reshape(-1)
    lowest = np.full(int(groups.max()) + 1, len(values), dtype=np.int64)
    highest = np.full(len(lowest), -1, dtype=np.int64)
    np.minimum.at(lowest, groups, numbers)
    np.maximum.at(highest, groups, numbers)
    return np.asarray(highest > lowest)


def ndcg(scores: Floats, relevance: Floats, groups: Groups, *, k: int) -> Floats:
    """Return NDCG@k of each group, shape `(num_groups,)`; 0 where nothing is relevant.

    `scores` and `relevance`, which is 0 or more, have shape `(num_rows,)`. The gain of a candidate
    is its relevance (linear, as in trec_eval and scikit-learn), the discount that of place p is
    1 / log2(p + 1) up to place k. Equal to `sklearn.metrics.ndcg_score`, ties included.

    Ref: Järvelin & Kekäläinen 2002, ACM TOIS 20:422; ties: McSherry & Najork 2008, ECIR, eq. 4.
    """
    best = _dcg(relevance, relevance, groups, k)
    return np.divide(
        _dcg(scores, relevance, groups, k), best, out=np.zeros_like(best), where=best > 0
    )


def reciprocal_rank(
    scores: Floats, relevant: NDArray[np.bool_], groups: Groups, *, k: int
) -> Floats:
    """Return 1 / the place of each group's first relevant candidate, 0 beyond place k.

    The arrays have shape `(num_rows,)`, the result `(num_groups,)`. Among t candidates with the
    same number of which r are relevant, the first relevant one is at place j of them in
    C(t - j, r - 1) of C(t, r) orders.
    """
    order, place, tie = _ordered(scores, groups)
    size = np.bincount(tie)
    hits = np.bincount(tie, relevant[order].astype(np.float64)).astype(np.int64)
    first_row = np.flatnonzero(np.append(True, np.diff(tie) != 0))
    own = groups[order][first_row]  # (num_ties,)
    found = np.zeros(int(groups.max()) + 1)
    with_hits = np.flatnonzero(hits > 0)
    # Ties are in the order of their groups, the best first.
    _, chosen = np.unique(own[with_hits], return_index=True)
    for item in with_hits[chosen].tolist():
        found[own[item]] = _mean_reciprocal(
            int(place[first_row[item]]), int(size[item]), int(hits[item]), k
        )
    return found


def concordance(before: Floats, after: Floats, groups: Groups) -> Floats:
    """Return which share of each group's pairs `after` puts in the order that `before` does.

    Both have shape `(num_rows,)`, the result `(num_groups,)`. Pairs that `before` does not tell
    apart do not count, those that only `after` does not are half right: without ties it is
    (tau + 1) / 2 of Kendall's tau. NaN where `before` tells no pair apart.

    Ref: Kendall 1938, Biometrika 30:81; as a share Harrell's C, 1982, JAMA 247:2543.
    """
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups))
    found = np.full(len(ends), np.nan)
    for number, rows in enumerate(np.split(order, ends[:-1])):
        kept, told = _pairs(before[rows], after[rows])
        if told > 0:
            found[number] = kept / told
    return found


def _pairs(before: Floats, after: Floats) -> tuple[float, float]:
    """Return how many pairs keep their order, a new tie counting half, and of how many."""
    kept = told = 0.0
    step = max(1, _PAIRS_AT_ONCE // max(1, len(before)))
    for start in range(0, len(before), step):
        part = slice(start, start + step)
        above = before[part, None] > before[None, :]  # (step, num_candidates)
        told += float(np.sum(above))
        kept += float(np.sum(above & (after[part, None] > after[None, :])))
        kept += float(np.sum(above & (after[part, None] == after[None, :]))) / 2
    return kept, told


def best_rows(scores: Floats, groups: Groups) -> NDArray[np.int64]:
    """Return the row with the highest number of each group, the first of several.

    >>> best_rows(np.array([1.0, 3.0, 3.0, 0.5]), np.array([0, 0, 0, 1])).tolist()
    [1, 3]
    """
    order, place, _ = _ordered(scores, groups)
    return np.asarray(order[place == 0])


def ranks_within(scores: Floats, groups: Groups) -> NDArray[np.int64]:
    """Return the place of each row in its group, 0 for the highest number; ties share the first.

    >>> ranks_within(np.array([1.0, 3.0, 3.0, 0.5]), np.array([0, 0, 0, 1])).tolist()
    [2, 0, 0, 0]
    """
    order, place, tie = _ordered(scores, groups)
    first = place[np.flatnonzero(np.append(True, np.diff(tie) != 0))]
    ranks = np.empty_like(order)
    ranks[order] = first[tie]
    return ranks


def _ordered(scores: Floats, groups: Groups) -> tuple[NDArray[np.int64], ...]:
    """Return the rows by group, the highest number first; their places from 0; numbers of ties.

    The rows with one number in one group are a tie, numbered from 0 on in that order.
    """
    order = np.lexsort((-scores, groups))
    numbers, own = scores[order], groups[order]
    starts = np.append(True, np.diff(own) != 0)
    first = np.flatnonzero(starts)
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    tie = np.cumsum(starts | np.append(True, np.diff(numbers) != 0)) - 1
    return order, place, tie


def _dcg(scores: Floats, relevance: Floats, groups: Groups, k: int) -> Floats:
    order, place, tie = _ordered(scores, groups)
    discount = np.where(place < k, 1 / np.log2(place + 2), 0.0)
    of_tie = np.bincount(tie, discount) / np.bincount(tie)  # the mean over all orders of a tie
    gains = relevance[order] * of_tie[tie]
    return np.asarray(np.bincount(groups[order], gains), np.float64)


def _mean_reciprocal(place: int, size: int, hits: int, k: int) -> float:
    """Return the mean of 1 / the place of the first hit in a tie that begins after `place` rows."""
    last = min(size - hits + 1, k - place)
    orders = math.comb(size, hits)
    return sum(math.comb(size - j, hits - 1) / orders / (place + j) for j in range(1, last + 1))


def pearson_sums(values: Floats, labels: Floats, units: Groups) -> Floats:
    """Return what each unit adds to Pearson's correlation, shape `(num_units, 6)`.

    These are the count, x, y, x^2, y^2 and x y of standardised numbers x and labels y, which have
    the same correlation and lose no digits. A unit is what is independent of the rest, such as a
    query with its candidates.
    """
    x, y = _standardised(values), _standardised(labels)
    return _by_unit(np.stack([np.ones_like(x), x, y, x**2, y**2, x * y], axis=-1), units)


def pearson(sums: Floats) -> Floats:
    """Return the correlation of sums of `pearson_sums`; 0 where numbers or labels are all equal."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    first, second = _spread(n, x, xx), _spread(n, y, yy)
    root = np.sqrt(first * second)
    zeros = np.zeros_like(root)
    return np.asarray(np.divide(xy - x * y / n, root, out=zeros, where=root > 0), np.float64)


def pearson_lost(units: Floats, total: Floats) -> Floats:
    """Return what units of `pearson_sums` would add if their numbers were mirrored at the mean."""
    n, x, y, xx, _, xy = np.moveaxis(units, -1, 0)
    mean = total[1] / total[0]
    mirrored = units.copy()
    mirrored[..., 1] = 2 * mean * n - x
    mirrored[..., 3] = 4 * mean**2 * n - 4 * mean * x + xx
    mirrored[..., 5] = 2 * mean * y - xy
    return mirrored


def r2_sums(values: Floats, labels: Floats, units: Groups) -> Floats:
    """Return what each unit adds to the coefficient of determination, shape `(num_units, 4)`.

    These are the count, y, y^2 and (x - y)^2 of numbers x and labels y, measured from the mean of
    all labels, so that no digits are lost.
    """
    y = labels - labels.mean()
    return _by_unit(np.stack([np.ones_like(y), y, y**2, (values - labels) ** 2], axis=-1), units)


def r2(sums: Floats) -> Floats:
    """Return 1 - the squared error over the variance of labels, of sums of `r2_sums`.

    It is 1 for a model without errors and 0 for one that always gives the mean of the labels, and
    so lies on the scale of a budget, which a squared error, in the square of the labels' unit, does
    not. Where all labels are equal it is 1 without any error, else 0.
    """
    n, y, yy, errors = np.moveaxis(sums, -1, 0)
    spread = _spread(n, y, yy)
    unexplained = np.where(spread > 0, errors, errors > 0) / np.where(spread > 0, spread, 1.0)
    return np.asarray(1 - unexplained)


def r2_lost(units: Floats, total: Floats) -> Floats:
    """Return what units of `r2_sums` would add if their numbers were the mean of all labels."""
    n, y, yy, _ = np.moveaxis(units, -1, 0)
    mean = total[1] / total[0]
    lost = units.copy()
    lost[..., 3] = yy - 2 * mean * y + mean**2 * n
    return lost


def _by_unit(rows: Floats, units: Groups) -> Floats:
    """Add up rows `(num_rows, num_sums)` over those of each unit."""
    return np.stack([np.bincount(units, column) for column in rows.T], axis=-1)


def _standardised(numbers: Floats) -> Floats:
    if np.ptp(numbers) == 0:
        return np.zeros_like(numbers)
    centred = numbers - numbers.mean()
    return np.asarray(centred / np.sqrt(np.mean(centred**2)))


def _spread(n: Floats, total: Floats, squares: Floats) -> Floats:
    """Return the sum of squared distances from the mean, exactly 0 where it is but rounding."""
    spread = squares - total**2 / n
    return np.where(spread > _ROUNDING * squares, spread, 0.0)
