"""The scores of entities: precision, recall and F1, of documents that can be drawn anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.tags import Entity, Tags
from compressor.tasks.metrics import ratio


def entity_counts(
    tags: Tags, predicted: Sequence[Sequence[Entity]], labelled: Sequence[Sequence[Entity]]
) -> NDArray[np.float64]:
    """Count the entities of each document, shape `(num_documents, 3 * num_kinds)`.

    For each kind: the predicted ones that are labelled too, the predicted and the labelled ones.
    """
    counts = np.zeros((len(labelled), max(1, len(tags.kinds)), 3))
    for row, (own, right) in enumerate(zip(predicted, labelled, strict=True)):
        for entity in set(own) & set(right):
            counts[row, entity.kind, 0] += 1
        for entity in own:
            counts[row, entity.kind, 1] += 1
        for entity in right:
            counts[row, entity.kind, 2] += 1
    return counts.reshape(len(labelled), -1)


def micro_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up the kinds of `entity_counts`: shape `(..., 3)`."""
    return np.asarray(_by_kind(counts).sum(axis=-2))


def f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the F1 of sums of shape `(..., 3)`; 0 where there is neither entity nor prediction.

    >>> f1(np.array([[2.0, 3.0, 5.0], [0.0, 0.0, 0.0]])).tolist()
    [0.5, 0.0]
    """
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def precision(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of predicted entities that are labelled, of sums of shape `(..., 3)`."""
    return ratio(sums[..., 0], sums[..., 1])


def recall(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of labelled entities that are predicted, of sums of shape `(..., 3)`."""
    return ratio(sums[..., 0], sums[..., 2])


def macro_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean F1 of kinds, of sums of shape `(..., 3 * num_kinds)`.

    Kinds that are neither labelled nor predicted do not count.
    """
    by_kind = _by_kind(sums)
    is_there = by_kind[..., 1] + by_kind[..., 2] > 0  # (..., num_kinds)
    return ratio((f1(by_kind) * is_there).sum(axis=-1), is_there.sum(axis=-1))


def _by_kind(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts.reshape(*counts.shape[:-1], -1, 3)
