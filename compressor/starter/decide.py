"""The figures of a starter recipe: lengths from the tokens, the budget from the number of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from compressor.tasks import Example

_MAX_TOKENIZED = 2000  # rows, evenly spread
_COVERED = 99.5  # per cent of the rows that are not cut
_MULTIPLE = 8  # of lengths, which kernels like
_POINT = 0.01
_CONFIDENCE, _POWER = 0.95, 0.8
UNCHANGED = 3  # rows without a change bound its rate by this over their number: the rule of three
CHANGED = 0.02  # share of answers that compression changes, for the estimates below


@dataclass(frozen=True)
class Lengths:
    """Tokens of the rows that were looked at, special tokens included."""

    typical: int  # the median
    long: int  # the 95th percentile
    longest: int
    covered: int  # no more than one row in 200 is longer
    limit: int  # that the model reads
    distinct: float  # tokens that a row adds on average, of which the copy of another adds none


def measure_lengths(preprocessor: Any, examples: Sequence[Example]) -> Lengths:
    """Return the token lengths of at most 2,000 evenly spread texts or pairs."""
    step = max(1, math.ceil(len(examples) / _MAX_TOKENIZED))
    chosen = list(examples[::step])
    firsts = [item if isinstance(item, str) else item[0] for item in chosen]
    seconds = [item[1] for item in chosen if isinstance(item, tuple)] or None
    encoded = preprocessor(firsts, seconds, truncation=False, verbose=False)["input_ids"]
    lengths = np.array([len(ids) for ids in encoded])
    typical, long, covered = np.percentile(lengths, (50, 95, _COVERED))
    limit = int(preprocessor.model_max_length)
    distinct = sum(min(len(ids), limit) for ids in set(map(tuple, encoded)))
    return Lengths(
        typical=_round_up(typical, limit),
        long=_round_up(long, limit),
        longest=int(lengths.max()),
        covered=_round_up(covered, limit),
        limit=limit,
        distinct=distinct / len(chosen),
    )


def smallest_budget(num_rows: int) -> float:
    """Return one point, or what one example weighs where that is more, rounded up.

    >>> smallest_budget(872), smallest_budget(30)
    (0.01, 0.0334)
    """
    return max(_POINT, math.ceil(10_000 / num_rows) / 10_000)


def rows_to_certify(max_drop: float) -> int:
    """Return about how many rows certify that the drop is at most `max_drop`.

    At 95% confidence, with a chance of 80%, when nothing is lost and 2% of the answers change:
    ((z_confidence + z_power) / max_drop)^2 * changed (the sample size for paired proportions,
    Connor 1987, doi:10.2307/2531961).

    >>> rows_to_certify(0.01)
    1237
    """
    spread = norm.ppf(_CONFIDENCE) + norm.ppf(_POWER)
    return math.ceil(CHANGED * (float(spread) / max_drop) ** 2)


def certified_by(num_rows: int) -> float:
    """Return about the smallest drop that so many rows can certify; see `rows_to_certify`."""
    spread = norm.ppf(_CONFIDENCE) + norm.ppf(_POWER)
    return float(spread) * math.sqrt(CHANGED / num_rows)


def certified_without_change(num_rows: int) -> float:
    """Return the smallest share of changed answers that so many rows can certify: none changed.

    Ref: Hanley & Lippman-Hand 1983, doi:10.1001/jama.1983.03330370053031 (the rule of three).
    """
    return UNCHANGED / num_rows


def _round_up(length: float, limit: int) -> int:
    return min(math.ceil(length / _MULTIPLE) * _MULTIPLE, limit)
