"""What a user of an artifact gets of the numbers that a graph gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from .probabilities import sigmoid, softmax

Thresholds = tuple[float, ...]  # of each label, in the order of the logits


class Prediction(TypedDict):
    """One prediction: the label, its class id, and its softmax probability."""

    label: str
    label_id: int
    score: float


class LabelScore(TypedDict):
    """One label of one prediction: its class id, the sigmoid of its logit, and whether it holds."""

    label: str
    label_id: int
    score: float
    predicted: bool


def chosen_labels(logits: NDArray[np.float32], labels: Sequence[str]) -> list[Prediction]:
    """Return the label with the largest logit of each row of shape `(num_labels,)`."""
    winners = logits.argmax(axis=-1)
    return [
        Prediction(label=labels[int(k)], label_id=int(k), score=float(row[k]))
        for k, row in zip(winners, softmax(logits), strict=True)
    ]


def scored_labels(
    logits: NDArray[np.float32], labels: Sequence[str], thresholds: Thresholds | None
) -> list[list[LabelScore]]:
    """Return the score of every label for each row of shape `(num_labels,)`, in their order."""
    predicted = predicted_sets(logits, thresholds)
    return [
        [
            LabelScore(label=name, label_id=place, score=float(score), predicted=bool(holds))
            for place, (name, score, holds) in enumerate(zip(labels, row, sets, strict=True))
        ]
        for row, sets in zip(sigmoid(logits), predicted, strict=True)
    ]


def predicted_sets(
    logits: NDArray[np.float32], thresholds: Thresholds | None = None
) -> NDArray[np.bool_]:
    """Return which labels are predicted: those whose sigmoid is at least the threshold, or half."""
    return np.asarray(logits >= cuts_of(thresholds))


def cuts_of(thresholds: Thresholds | None) -> NDArray[np.float64] | float:
    """Return the logits whose sigmoids are the thresholds, shape `(num_labels,)`; 0 for one half.

    >>> cuts_of((0.5, 0.9)).round(3).tolist()
    [0.0, 2.197]
    """
    if thresholds is None:
        return 0.0
    return np.array([math.log(value / (1 - value)) for value in thresholds])
