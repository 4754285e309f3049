"""Logits as probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of logits of shape `(num_examples, num_labels)`, in that shape.

    A single logit is no choice between labels, so its probability is 1.

    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]], dtype=np.float32)).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))  # the largest becomes exp(0)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)), without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0], np.float32)).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits.astype(np.float64)))  # at most 1
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
