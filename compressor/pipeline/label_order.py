"""Finds labels that number the classes in another order than the checkpoint does.

Data sets and checkpoints order the same classes differently (GLUE and roberta-large-mnli number
entailment and contradiction the other way round), and ids alone do not say so: the score is then
low, and a training would teach the wrong classes. If another order of the classes fits the
predictions far better, the order is wrong, or the checkpoint is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Classes = NDArray[np.int64]
Sets = NDArray[np.bool_]
Floats = NDArray[np.float64]

# The order is found on one half of the rows and tested on the other, so that the p-value needs no
# correction for the number of orders that there are.
_TOLD = 0.01
_CERTAIN = 1e-4
_SMALLEST_GAIN = 0.05  # in accuracy; what is certain halves the errors besides


@dataclass(frozen=True)
class LabelOrder:
    """An order of the classes that fits far better; `meaning[k]` is the class that label k means.

    Of sets of labels `accuracy` and `best_accuracy` are the micro F1. `is_certain`: the errors
    become half as many or fewer, and chance does so once in 10,000 times.
    """

    accuracy: float
    best_accuracy: float
    meaning: tuple[int, ...]
    is_certain: bool


def better_order(labels: Classes, outcomes: Classes, num_labels: int) -> LabelOrder | None:
    """Return the order of the classes that fits the predictions far better; None without.

    Labels and outcomes, which are the predictions, are class ids below `num_labels`, both of shape
    `(num_examples,)`.
    """
    found = _assignment(_counts(labels[0::2], outcomes[0::2], num_labels))
    as_given, as_found = (labels[1::2] == outcomes[1::2], found[labels[1::2]] == outcomes[1::2])
    meaning = _assignment(_counts(labels, outcomes, num_labels))
    accuracy = float(np.mean(labels == outcomes))
    best = float(np.mean(meaning[labels] == outcomes))
    return _told(as_found.astype(np.int64) - as_given, accuracy, best, meaning)


def better_order_of_sets(labelled: Sets, predicted: Sets) -> LabelOrder | None:
    """Return the order of the labels that fits predicted sets far better; None without.

    Both are of shape `(num_examples, num_labels)`: which labels hold, and which are predicted.
    """
    own = np.arange(labelled.shape[1])
    found = _assignment(_common(labelled[0::2], predicted[0::2]))
    hits = [_hits(labelled[1::2], predicted[1::2], order) for order in (found, own)]
    meaning = _assignment(_common(labelled, predicted))
    whole = max(1, int(labelled.sum()) + int(predicted.sum()))  # the same in every order
    as_given, best = (
        float(2 * _hits(labelled, predicted, order).sum() / whole) for order in (own, meaning)
    )
    return _told(hits[0] - hits[1], as_given, best, meaning)


def _hits(labelled: Sets, predicted: Sets, meaning: Classes) -> Classes:
    """Return how many labels of each example are predicted, if label k means class meaning[k]."""
    return np.asarray((labelled & predicted[:, meaning]).sum(axis=1))


def _told(gains: Classes, accuracy: float, best: float, meaning: Classes) -> LabelOrder | None:
    """Return the order, unless chance could have found it.

    `gains`, shape `(num_tested,)`, say how much more is right in each row of the second half.
    """
    wins, losses = int(np.sum(gains > 0)), int(np.sum(gains < 0))
    if wins <= losses:
        return None
    p_value = float(stats.binomtest(wins, wins + losses, alternative="greater").pvalue)
    if p_value > _TOLD or best - accuracy < _SMALLEST_GAIN:
        return None
    is_certain = p_value <= _CERTAIN and 1 - best <= (1 - accuracy) / 2
    return LabelOrder(accuracy, best, tuple(meaning.tolist()), is_certain)


def _counts(labels: Classes, outcomes: Classes, num_labels: int) -> Floats:
    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (labels, outcomes), 1)
    return counts


def _common(labelled: Sets, predicted: Sets) -> Floats:
    return labelled.T.astype(np.float64) @ predicted.astype(np.float64)


def _assignment(counts: Floats) -> Classes:
    """Return for each label the class that it means where most predictions are right.

    `counts` say how often a label comes together with a class, shape `(num_labels, num_labels)`. A
    label that does not occur keeps its own class, as far as no other one takes it.
    """
    num_labels = len(counts)
    rows, columns = optimize.linear_sum_assignment(
        counts + np.eye(num_labels) / (2 * num_labels), maximize=True
    )
    meaning = np.empty(num_labels, dtype=np.int64)
    meaning[rows] = columns
    return meaning
