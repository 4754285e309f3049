"""How long the rows of a starter recipe are, in tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.models.text_files import MOST_UNASKED
from compressor.tasks import NO_LIMIT, Example, Task

_MAX_TOKENIZED = 2000  # rows, evenly spread
_COVERED = 99.5  # per cent of the rows that are not cut
_MULTIPLE = 8  # of lengths, which kernels like
_USUAL_LENGTH = 512  # tokens, of an artifact whose checkpoint has no limit


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows that were looked at, special tokens included."""

    typical: int  # the median
    long: int  # the 95th percentile
    longest: int
    covered: int  # no more than one row in 200 is longer
    limit: int  # that the model reads
    most: int | None = None  # that the artifact should read; None for as many as the model
    most_why: str = ""

    @property
    def read(self) -> int:
        """Return how many tokens the artifact reads at most."""
        return self.limit if self.most is None else self.most


def measure_lengths(
    task: Task, preprocessor: Any, examples: Sequence[Example], full: int | None = None
) -> Lengths:
    """Return the token lengths of at most 2,000 evenly spread texts or pairs.

    `full` is how many tokens see each other in the model, where that is not any number.
    """
    step = max(1, math.ceil(len(examples) / _MAX_TOKENIZED))
    lengths = task.token_counts(preprocessor, examples[::step])
    assert lengths is not None, "texts have tokens"
    typical, long, covered = np.percentile(lengths, (50, 95, _COVERED))
    limit = int(preprocessor.model_max_length)
    longest = int(lengths.max())
    most, why = None, ""
    if full is not None and longest <= full < limit:
        most, why = full, "tokens that the artifact reads at most; of more, not all see each other"
    elif limit > MOST_UNASKED:
        most = max(_USUAL_LENGTH, longest)
        has = (
            f"the checkpoint {limit:,}" if limit < NO_LIMIT else "the checkpoint has no such limit"
        )
        why = f"tokens that the artifact reads at most; {has}"
    return Lengths(
        typical=_round_up(typical, limit),
        long=_round_up(long, limit),
        longest=longest,
        covered=_round_up(covered, limit),
        limit=limit,
        most=most,
        most_why=why,
    )


def _round_up(length: float, limit: int) -> int:
    return min(math.ceil(length / _MULTIPLE) * _MULTIPLE, limit)
