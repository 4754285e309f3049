"""Which examples are read together: those of similar length, so that little is padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def by_length(lengths: Sequence[int], batch_size: int) -> list[NDArray[np.int64]]:
    """Return the places of the examples of each batch; those of similar length stand together.

    Raises `ValueError` for a `batch_size` below 1.

    >>> [batch.tolist() for batch in by_length([5, 1, 4, 2], 2)]
    [[1, 3], [2, 0]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: must be 1 or more, got {batch_size}")
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
