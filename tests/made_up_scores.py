"""A search split and scores on it, for tests of gates and goals whose models are made up."""

from __future__ import annotations

import numpy as np

from compressor.data import Dataset
from compressor.measurements import Score

_ROWS = 1000
SEARCH = Dataset(
    "search",
    tuple(f"text {index}" for index in range(_ROWS)),
    np.zeros(_ROWS, dtype=np.int64),
    np.arange(_ROWS),
    "generated",
)


def score(value: float) -> Score:
    """Return an accuracy of `value`, with as many wrong predictions as it takes."""
    wrong = round(_ROWS * (1 - value))
    return Score("accuracy", value, _ROWS, (np.arange(_ROWS) < wrong).astype(np.int64))
