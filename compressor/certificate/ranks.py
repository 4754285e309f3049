"""Rank correlations on resamples and without each example, where ranks are found once.

Ranking every resample, and all examples but each one, would sort thousands of times and as often as
there are examples. Here the order is found once: a resample only changes how often each number
occurs, and without an example the ranks above its own fall by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from compressor.certificate.bootstrap import Classes, Floats


def spearman(values: Floats, grades: Floats) -> Floats:
    """Return the rank correlation of two arrays; 0 where either is the same throughout."""
    first, second = (_centred_ranks(numbers) for numbers in (values, grades))
    root = np.sqrt(np.sum(first**2, axis=-1) * np.sum(second**2, axis=-1))
    products = np.sum(first * second, axis=-1)
    return np.asarray(np.divide(products, root, out=np.zeros_like(root), where=root > 0))


@dataclass(frozen=True)
class SpearmanDrop:
    """The drop of a rank correlation with grades, by the triples (before, after, grade)."""

    name: str
    codes: Classes  # (3, num_cells): the place of each number among the different ones
    counts: Classes

    @classmethod
    def of_rows(cls, name: str, before: Floats, after: Floats, grades: Floats) -> SpearmanDrop:
        """Count the triples that are equal; they are ordered by grade."""
        numbers = (before, after, grades)
        codes = np.stack([np.unique(item, return_inverse=True)[1] for item in numbers])
        order = np.lexsort(codes)  # by the last row first
        codes = codes[:, order]
        first = np.append(True, (np.diff(codes, axis=1) != 0).any(axis=0))
        counts = np.diff(np.append(np.flatnonzero(first), codes.shape[1]))
        return cls(name, codes[:, first], counts)

    def of(self, counts: Floats) -> Floats:
        """Return the drops of counts of shape `(batch, num_cells)`."""
        return np.array([self._of_one(item) for item in counts])

    def _of_one(self, counts: Floats) -> float:
        old, new, truth = (_ranks_of_counted(codes, counts) for codes in self.codes)
        return _correlation(old, truth, counts) - _correlation(new, truth, counts)

    def without_one(self) -> Floats:
        """Return the drop without one example of each cell."""
        old, new, truth = self.codes
        return self._correlations_without_one(old, truth) - self._correlations_without_one(
            new, truth
        )

    def _correlations_without_one(self, first: Classes, second: Classes) -> Floats:
        """Return the rank correlation of two rows of codes without one example of each cell.

        Without example i the rank of j falls by u(i, j), which is 1 where j was above i, 1/2 where
        they tied and 0 below; so every sum over the new ranks is the old one less sums of ranks
        above i, and a count of the examples that are above i in both.
        """
        counts = self.counts.astype(np.float64)
        size = counts.sum()
        # Centred, so that no large sums are subtracted from each other.
        r, s = (_ranks_of_counted(codes, counts) - (size + 1) / 2 for codes in (first, second))
        products = (
            counts @ (r * s)
            - r * s
            - (_sum_above(first, counts * s) - s / 2)
            - (_sum_above(second, counts * r) - r / 2)
            + _above_in_both(first, second, counts)
            - 1 / 4  # of itself, with itself
        )
        squares, sums = [], []
        for ranks, codes in ((r, first), (s, second)):
            falls = _sum_above(codes, counts) - 1 / 2
            tied = np.bincount(codes, counts)[codes] - 1  # each adds 1/2 to the falls, 1/4 squared
            falls_of_ranks = _sum_above(codes, counts * ranks) - ranks / 2
            squares.append(counts @ ranks**2 - ranks**2 - 2 * falls_of_ranks + falls - tied / 4)
            sums.append(-ranks - falls)
        covariance = products - sums[0] * sums[1] / (size - 1)
        spreads = [
            square - total**2 / (size - 1) for square, total in zip(squares, sums, strict=True)
        ]
        varies = np.minimum(*spreads) > 1 / 4  # two examples that differ have 1/2, more have more
        root = np.sqrt(np.where(varies, spreads[0] * spreads[1], 1.0))
        return np.where(varies, covariance / root, 0.0)


def _ranks_of_counted(codes: Classes, counts: Floats) -> Floats:
    """Return the rank of each cell's number among counted ones; ties share their mean."""
    ties = np.bincount(codes, counts)
    return np.asarray((np.cumsum(ties) - (ties - 1) / 2)[codes])


def _correlation(first: Floats, second: Floats, counts: Floats) -> float:
    """Return the correlation of counted ranks; 0 where either is the same throughout."""
    mean = (counts.sum() + 1) / 2  # of any ranks
    first, second = first - mean, second - mean
    weighted = counts * second
    root = float(np.sqrt((counts @ first**2) * (weighted @ second)))
    return float(first @ weighted) / root if root > 0 else 0.0


def _sum_above(codes: Classes, weights: Floats) -> Floats:
    """Return for each cell the sum of `weights` over higher cells, and half of it over equal ones.

    The cell itself is one of the equal ones.
    """
    ties = np.bincount(codes, weights)
    return np.asarray((np.cumsum(ties[::-1])[::-1] - ties / 2)[codes])


def _above_in_both(first: Classes, second: Classes, counts: Floats) -> Floats:
    """Return for each cell the count of cells that are higher in both; a tie halves it, two to 1/4.

    Cells are sorted by `first`, highest first, so that those above a cell are a prefix; in it,
    those that are higher in `second` are found bit by bit in a wavelet matrix, for all cells at
    once.
    Ref: Claude and Navarro 2012, The wavelet matrix, SPIRE, LNCS 7608:167.
    """
    order = np.argsort(-first, kind="stable")
    sorted_first = -first[order]
    # Of strictly higher and of not lower cells: the mean of the two halves ties.
    ends = [np.searchsorted(sorted_first, -first, side=side) for side in ("left", "right")]
    end = np.concatenate(ends)
    start, found = np.zeros_like(end), np.zeros(len(end))
    wanted = np.concatenate([second, second])
    values, weights = second[order], counts[order]
    for bit in range(int(second.max()).bit_length() - 1, -1, -1):
        ones = (values >> bit) & 1
        zeros_before = np.append(0, np.cumsum(1 - ones))
        weight_of_ones = np.append(0.0, np.cumsum(weights * ones))
        has_one = ((wanted >> bit) & 1).astype(bool)
        # Where the wanted value has a 0, those with a 1 are higher; then only equal ones go on.
        found += np.where(has_one, 0.0, weight_of_ones[end] - weight_of_ones[start])
        start, end = (
            np.where(has_one, zeros_before[-1] + place - zeros_before[place], zeros_before[place])
            for place in (start, end)
        )
        ordered = np.argsort(ones, kind="stable")
        values, weights = values[ordered], weights[ordered]
    equal = np.append(0.0, np.cumsum(weights))
    found += (equal[end] - equal[start]) / 2
    return np.asarray(found.reshape(2, -1).mean(axis=0))


def _centred_ranks(numbers: Floats) -> Floats:
    # (..., num_examples), ties share their mean
    ranks: Floats = np.asarray(stats.rankdata(numbers, axis=-1), dtype=np.float64)
    return np.asarray(ranks - ranks.mean(axis=-1, keepdims=True))
