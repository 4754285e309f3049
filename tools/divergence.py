"""How far predictions are from those of another model, as several tools tell it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

# Softened so, classes that are not predicted weigh too: a sure model hides what changed in it.
TEMPERATURE = 2.0


def kl_divergence(
    original: NDArray[Any], found: NDArray[Any], *, temperature: float = TEMPERATURE
) -> float:
    """Return the mean KL divergence of `found` from `original` in nats, by logits.

    Both have the shape `(rows, classes)`; a row is the sum over its classes of p log(p / q), where
    p is the softened prediction of the original (Kullback and Leibler, 1951).
    """
    expected, given = (
        log_softmax(logits.astype(np.float64) / temperature, axis=1) for logits in (original, found)
    )
    return float((np.exp(expected) * (expected - given)).sum(axis=1).mean())
