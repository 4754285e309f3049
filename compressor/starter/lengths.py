"""How long the rows of a starter recipe are, in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.tasks import Example, Task

_MAX_TOKENIZED = 2000  # rows, evenly spread
_COVERED = 99.5  # per cent of the rows that are not cut
_MULTIPLE = 8  # of lengths, which kernels like


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows that were looked at, special tokens included."""

    typical: int  # the median
    long: int  # the 95th percentile
    longest: int
    covered: int  # no more than one row in 200 is longer
    limit: int  # that the model reads


def measure_lengths(task: Task, preprocessor: Any, examples: Sequence[Example]) -> Lengths:
    """Return the token lengths of at most 2,000 evenly spread texts or pairs."""
    step = max(1, math.ceil(len(examples) / _MAX_TOKENIZED))
    lengths = task.token_counts(preprocessor, examples[::step])
    assert lengths is not None, "texts have tokens"
    typical, long, covered = np.percentile(lengths, (50, 95, _COVERED))
    limit = int(preprocessor.model_max_length)
    return Lengths(
        typical=_round_up(typical, limit),
        long=_round_up(long, limit),
        longest=int(lengths.max()),
        covered=_round_up(covered, limit),
        limit=limit,
    )


def _round_up(length: float, limit: int) -> int:
    return min(math.ceil(length / _MULTIPLE) * _MULTIPLE, limit)
