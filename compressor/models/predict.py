"""Lets a model read a batch of any number of rows, a few of them at a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.tasks import Batch

_MOST_TOKENS = 4096  # in rows that are read together: attention takes memory by length times length


class Predictor(Protocol):
    """What can be evaluated: a `TorchModel` or an `OnnxModel`."""

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Return the float32 outputs that the task names, the first axis is the batch."""


def predict_rows(predictor: Predictor, batch: Batch, most: int) -> NDArray[np.float32]:
    """Return what `predictor` gives for `batch`, of which it reads at most `most` rows together.

    A long document is many rows, which would take memory that its examples do not.
    """
    count = len(next(iter(batch.values())))
    if count <= most:
        return predictor.predict(batch)
    return np.concatenate(
        [
            predictor.predict({name: value[start : start + most] for name, value in batch.items()})
            for start in range(0, count, most)
        ]
    )


def rows_at_a_time(batch: Batch, most: int) -> int:
    """Return how many rows of `batch` a model reads together in little memory, at most `most`.

    32 rows of 512 tokens take more than a gigabyte, and are no faster than 8.
    """
    widths = [
        value.shape[1] for value in batch.values() if value.ndim == 2 and value.dtype.kind == "i"
    ]
    return max(1, min(most, _MOST_TOKENS // max(widths, default=1)))
