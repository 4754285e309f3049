"""Similarity of embeddings: cosines, and nearest neighbours that stay.

Scales of vectors do not matter here, angles do: similarity is the cosine. The neighbours of a text
are looked for among the other *different* texts of the split. A text that occurs twice would be its
own nearest neighbour, whatever a model does, and two equal candidates would be told apart by noise.
What is said of texts holds for whatever tells other inputs apart, such as digests of images.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10  # of each text, whose agreement is taken
MAX_CANDIDATES = (
    10_000  # different texts, evenly spread over the split; work grows with rows x this
)
_ROWS_AT_ONCE = 1024
_ALIKE = 1e-5  # of each number of a vector of length 1; float32 keeps seven digits
_PLACES = 512

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Places = NDArray[np.int64]


def as_floats(vectors: NDArray[Any]) -> Vectors:
    """Return vectors, shape `(num_texts, width)`, as the floats that stand for what a graph gives.

    Float32 stays. Int8 numbers have one scale, which no angle depends on, so they are taken as they
    are. A byte of uint8 holds eight signs, the first in its highest bit: 1 for a bit that is set,
    -1 for one that is not.

    >>> as_floats(np.array([[0b10100000]], np.uint8)).tolist()
    [[1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0]]
    """
    if vectors.dtype == np.uint8:
        return np.unpackbits(vectors, axis=1) * np.float32(2) - np.float32(1)
    return vectors.astype(np.float32, copy=False)


def cosines(first: Vectors, second: Vectors) -> Floats:
    """Return the cosine similarity of each row of `first` and the same row of `second`.

    >>> cosines(np.array([[3.0, 4.0]], np.float32), np.array([[4.0, 3.0]], np.float32)).round(6)
    array([0.96])
    """
    products: Floats = np.sum(_unit(first) * _unit(second), axis=1)
    return np.clip(products, -1.0, 1.0)


def candidates(texts: Sequence[Hashable]) -> Places:
    """Return the positions of the different texts, the first of each, at most 10,000 of them."""
    first: dict[Hashable, int] = {}
    for position, text in enumerate(texts):
        first.setdefault(text, position)
    places = np.fromiter(first.values(), dtype=np.int64)
    if len(places) <= MAX_CANDIDATES:
        return places
    return places[np.linspace(0, len(places) - 1, MAX_CANDIDATES).round().astype(np.int64)]


def nearest(vectors: Vectors, texts: Sequence[Hashable], count: int) -> Places:
    """Return the positions of the `count` nearest other texts of each, nearest first.

    Shape `(num_texts, count)`; `count` is less than the number of candidates. Ties go to the text
    that comes first.
    """
    places = candidates(texts)
    unit = _unit(vectors).astype(np.float32)
    others = unit[places]  # (num_candidates, width)
    number = {texts[place]: column for column, place in enumerate(places.tolist())}
    own = np.array([number.get(text, -1) for text in texts])
    found = []
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        similarities = unit[start : start + _ROWS_AT_ONCE] @ others.T  # (rows, num_candidates)
        columns = own[start : start + _ROWS_AT_ONCE]
        rows = np.flatnonzero(columns >= 0)
        similarities[rows, columns[rows]] = -np.inf
        found.append(_largest(similarities, count))
    return places[np.concatenate(found)]


def kept_neighbours(before: Places, after: Places) -> Floats:
    """Return for each row of neighbours, shape `(num_texts, count)`, which share of them stayed.

    >>> kept_neighbours(np.array([[1, 2]]), np.array([[2, 5]]))
    array([0.5])
    """
    same = before[:, :, None] == after[:, None, :]  # (num_texts, count, count)
    share: Floats = same.any(axis=2).mean(axis=1)
    return share


def rank_correlation(similarities: Floats, grades: Floats) -> float:
    """Return Spearman's correlation; 0 where the similarities are all equal and so say nothing.

    Both have shape `(num_pairs,)`; the grades are not all equal.

    >>> rank_correlation(np.array([0.1, 0.9, 0.5]), np.array([1.0, 5.0, 2.0]))
    1.0
    """
    # Here and not at the top: `compress validate` asks tasks for their metrics' names.
    from scipy import stats

    if np.ptp(similarities) == 0:
        return 0.0
    return float(stats.spearmanr(similarities, grades).statistic)


def all_alike(vectors: Vectors) -> bool:
    """Return whether all vectors point the same way, as far as float32 can tell, or nowhere."""
    unit = _unit(vectors)
    return bool(np.abs(unit - unit[0]).max() <= _ALIKE)


def to_the_mean(vectors: Vectors) -> Floats:
    """Return the cosine similarity of each vector to the one that is nearest to all of them.

    No single vector has a higher mean of cosines than the mean of the vectors of length 1.

    >>> to_the_mean(np.array([[2.0, 0.0], [0.0, 1.0]], np.float32)).round(4)
    array([0.7071, 0.7071])
    """
    unit = _unit(vectors)
    return np.asarray(unit @ _unit(unit.mean(axis=0, keepdims=True))[0])


def word_counts(texts: Sequence[str]) -> Vectors:
    """Return a vector for each text that knows no word, only which words are the same.

    Each word adds 1 or -1 at one of 512 places, both by its checksum (feature hashing, Weinberger
    et al. 2009, arXiv:0902.2206). Random weights do much the same to words.
    """
    vectors = np.zeros((len(texts), _PLACES), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.lower().split():
            checksum = zlib.crc32(word.encode())
            vectors[row, checksum % _PLACES] += 1 - 2 * (checksum >> 31)
    return vectors


def _largest(similarities: NDArray[np.float32], count: int) -> Places:
    """Return the columns of the `count` largest values of each row, the largest first."""
    if count < similarities.shape[1]:
        # Sorting all of them would take most of the time.
        columns = np.sort(np.argpartition(-similarities, count - 1, axis=1)[:, :count], axis=1)
        # Which of those at the limit are among them, that leaves open: the first ones are to be.
        limit = np.take_along_axis(similarities, columns, axis=1).min(axis=1, keepdims=True)
        tied = np.flatnonzero((similarities >= limit).sum(axis=1) > count)
        above, equal = similarities[tied] > limit[tied], similarities[tied] == limit[tied]
        room = count - above.sum(axis=1, keepdims=True)
        taken = above | (equal & (equal.cumsum(axis=1) <= room))
        columns[tied] = np.nonzero(taken)[1].reshape(len(tied), count)
    else:
        columns = np.broadcast_to(np.arange(similarities.shape[1]), similarities.shape)
    chosen = np.take_along_axis(similarities, columns, axis=1)
    order = np.argsort(-chosen, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int64)


def _unit(vectors: Vectors) -> Floats:
    """Return the vectors with length 1; one of zeros, which has no direction, stays."""
    precise = vectors.astype(np.float64)
    lengths = np.linalg.norm(precise, axis=1, keepdims=True)
    return np.asarray(precise / np.where(lengths > 0, lengths, 1.0))
