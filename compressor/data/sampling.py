"""Chooses rows: by label, by chance, by length or evenly spread; always the same ones."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.tasks import Example, length_of


def sample_rows(
    rows: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    count: int,
    *,
    seed: int,
    purpose: str,
) -> NDArray[np.int64]:
    """Return `count` of `rows`, ascending, with the labels' proportions."""
    # NumPy promises that RandomState's stream never changes (NEP 19), unlike the newer Generator's.
    random = np.random.RandomState(zlib.crc32(f"{seed}/{purpose}".encode()))
    order = random.permutation(len(rows))
    if labels is None:
        return np.sort(rows[order[:count]])
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = stratified_counts(sizes.tolist(), count)
    shuffled = labels[order]
    picked = [
        order[np.flatnonzero(shuffled == label)[:quota]]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(rows[np.concatenate(picked)])


def sample_groups(
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    count: int,
    *,
    seed: int,
    purpose: str,
) -> NDArray[np.int64]:
    """Return about `count` of `rows`, ascending: all rows of groups that are drawn by chance.

    `groups` holds the number of each row's. At most `count` rows, but at least one group.
    """
    random = np.random.RandomState(zlib.crc32(f"{seed}/{purpose}".encode()))
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = random.permutation(len(sizes))
    taken = max(1, int(np.sum(np.cumsum(sizes[order]) <= count)))
    return np.sort(rows[np.isin(numbers, order[:taken])])


def evenly_spread(total: int, count: int) -> NDArray[np.int64]:
    """Return at most `count` of the positions below `total`, ascending: first and last are in."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round()).astype(np.int64)


def drawn_by_chance(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return at most `count` of the positions below `total` in random order, all as likely."""
    return np.random.default_rng(seed).permutation(total)[:count]


def drawn_by_length(
    examples: Sequence[Example], count: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Return at most `count` positions in random order, each in proportion to the rest's lengths.

    Ref: Efraimidis & Spirakis 2006, Weighted random sampling with a reservoir.
    """
    lengths = np.maximum(1, lengths_of(examples))
    order: NDArray[np.int64] = (random.exponential(size=len(lengths)) / lengths).argsort()
    return order[:count]


def lengths_of(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Return `length_of` each example, shape `(num_examples,)`."""
    return np.fromiter(map(length_of, examples), dtype=np.int64, count=len(examples))


def stratified_counts(sizes: Sequence[int], total: int) -> list[int]:
    """Share `total` rows among classes of these `sizes` by largest remainder.

    Each class of two rows or more gets at least one where `total` allows it.

    >>> stratified_counts([60, 30, 10], 10)
    [6, 3, 1]
    >>> stratified_counts([98, 2], 10)
    [9, 1]
    """
    exact = [total * size / sum(sizes) for size in sizes]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    for index, size in enumerate(sizes):
        richest = max(range(len(sizes)), key=lambda other: counts[other])
        if counts[index] == 0 and size >= 2 and counts[richest] > 1:
            counts[index] += 1
            counts[richest] -= 1
    return counts
