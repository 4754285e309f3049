"""Scores that every classification task shares, computed with scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.measurements import AGREEMENT, Score

METRICS = ("accuracy", "f1_macro", "matthews_correlation", AGREEMENT)


def score_classification(
    metric: str, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> Score:
    """Score the arg-max of `logits`, shape `(num_examples, num_labels)`.

    For `agreement`, `labels` are the answers of the untouched checkpoint.

    >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
    >>> score_classification("accuracy", logits, np.array([0, 1, 1])).value
    0.6666666666666666
    """
    # Here and not at the top: `compress validate` asks tasks for their metrics' names, and loading
    # scikit-learn takes longer than the rest of it.
    from sklearn.metrics import f1_score, matthews_corrcoef

    predicted = logits.argmax(axis=-1).astype(np.int64)  # (num_examples,)
    if metric in ("accuracy", AGREEMENT):
        value = float(np.mean(predicted == labels))
    elif metric == "f1_macro":
        value = float(f1_score(labels, predicted, average="macro", zero_division=0.0))
    elif metric == "matthews_correlation":
        value = float(matthews_corrcoef(labels, predicted))
    else:
        raise KeyError(metric)
    return Score(metric, value, len(labels), predicted, softmax(logits))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of logits of shape `(num_examples, num_labels)`, in that shape.

    A single logit is no choice between labels, so its probability is 1.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]], dtype=np.float32)).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))  # the largest becomes exp(0)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float32)
