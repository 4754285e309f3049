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

# The order is found on one half of the rows and tested on the other, so that the p-value needs no
# correction for the number of orders that there are.
_TOLD = 0.01
_CERTAIN = 1e-4
_SMALLEST_GAIN = 0.05  # in accuracy; what is certain halves the errors besides


@dataclass(frozen=True)
class LabelOrder:
    """An order of the classes that fits far better; `meaning[k]` is the class that label k means.

    `is_certain`: the errors become half as many or fewer, and chance does so once in 10,000 times.
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
    found = _assignment(labels[0::2], outcomes[0::2], num_labels)
    as_given, as_found = (labels[1::2] == outcomes[1::2], found[labels[1::2]] == outcomes[1::2])
    wins, losses = int(np.sum(as_found & ~as_given)), int(np.sum(as_given & ~as_found))
    if wins <= losses:
        return None
    p_value = float(stats.binomtest(wins, wins + losses, alternative="greater").pvalue)
    meaning = _assignment(labels, outcomes, num_labels)
    accuracy = float(np.mean(labels == outcomes))
    best = float(np.mean(meaning[labels] == outcomes))
    if p_value > _TOLD or best - accuracy < _SMALLEST_GAIN:
        return None
    is_certain = p_value <= _CERTAIN and 1 - best <= (1 - accuracy) / 2
    return LabelOrder(accuracy, best, tuple(meaning.tolist()), is_certain)


def _assignment(labels: Classes, outcomes: Classes, num_labels: int) -> Classes:
    """Return for each label the class that it means where most predictions are right.

    A label that does not occur keeps its own class, as far as no other one takes it.
    """
    counts = np.zeros((num_labels, num_labels))
    np.add.at(counts, (labels, outcomes), 1)
    rows, columns = optimize.linear_sum_assignment(
        counts + np.eye(num_labels) / (2 * num_labels), maximize=True
    )
    meaning = np.empty(num_labels, dtype=np.int64)
    meaning[rows] = columns
    return meaning
