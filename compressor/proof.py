"""What paired examples prove, as facts; `compressor.certificate` establishes them.

Also what so many examples can prove at best, which is asked before SciPy is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from compressor.stored_types import Count, Number, Quantity

CertificateVerdict = Literal["certified", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Uninformed:
    """The best of the models that know nothing of their input, as a yardstick on one split.

    `least_drop` is the one-sided lower bound of how far it lies below the untouched checkpoint,
    with the confidence of the certificate; null where no certificate was asked for.
    """

    who: str
    """Such as `a model that predicts 'positive' for everything`."""
    score: Number
    """Its score, fraction."""
    least_drop: Number | None = None
    """One-sided lower bound of how far it lies below the untouched checkpoint, fraction. Null: on
    the search split, on which no certificate is taken."""


@dataclass(frozen=True)
class Certificate:
    """What paired examples prove about a drop; a drop is before minus after, negative for a gain.

    `certified`: `upper_bound` is at most `max_drop`, and `max_drop` is below the least drop of
    `uninformed`, so that a model that knows nothing is refuted by the same rows. `refuted`:
    `lower_bound` is above `max_drop`. `inconclusive`: neither; `needed_examples`, in all, would
    certify the observed drop with a chance of 80%, and is None when that drop reaches `max_drop`,
    the question is settled, or a model that knows nothing would pass. Each bound holds by itself
    with `confidence`.
    """

    verdict: CertificateVerdict
    """`certified`: the upper bound is within the budget, and the budget is below
    `certificate.uninformed.least_drop`; `refuted`: the lower bound is above it; `inconclusive`:
    neither."""
    metric: str
    """What dropped: the metric, or a name for its paired form."""
    drop: Number
    """Observed drop, fraction; negative for a gain."""
    upper_bound: Number
    """One-sided upper bound of the drop, fraction."""
    lower_bound: Number
    """One-sided lower bound of the drop, fraction."""
    max_drop: Quantity
    """Same as `max_drop`."""
    confidence: Quantity
    """Of each bound, fraction."""
    num_examples: Count
    """Paired examples; of embeddings texts, or pairs of texts for `spearman`."""
    wins: Count
    """Examples wrong before and right after; of embeddings those whose own share of the score rose,
    for `spearman` pairs that came nearer to the rank of their grade."""
    losses: Count
    """Examples right before and wrong after; of embeddings the reverse of `wins`."""
    needed_examples: Count | None
    """How many examples, in all, would certify the observed drop with a chance of 80%. Null: it is
    settled, or no number would do."""
    method: str
    """How the bounds were taken."""
    data_fingerprint: str | None = None
    """SHA-256 of the certification split's examples and labels."""
    uninformed: Uninformed | None = None
    """The best of the models that know nothing of their input, scored on the same rows: what it
    would pass proves nothing. Null: the report was written before it was asked."""


@dataclass(frozen=True)
class AttributionRecord:
    """How far attributions agree with the untouched checkpoint's, and what is proven about that.

    The agreement of an example is the rank correlation of the attributions of its pieces before and
    after, from -1 to 1; that of a model is the mean over examples. Words as in `Certificate`.
    """

    agreement: Number
    """Mean over examples, from -1 to 1."""
    lower_bound: Number
    """One-sided lower bound of it."""
    upper_bound: Number
    """One-sided upper bound of it."""
    min_agreement: Quantity
    """Same as `budget.min_attribution_agreement`."""
    verdict: CertificateVerdict
    """`certified`: the lower bound is at least `min_agreement`, and attributions that know nothing
    are refuted by the same rows; `refuted`: the upper bound is below it; `inconclusive`: neither.
    """
    confidence: Quantity
    """Of each bound, fraction."""
    num_examples: Count
    """Examples that were explained."""
    left_out: Count
    """Examples that were drawn and say nothing: fewer than three pieces, or all alike before."""
    explained: str
    """The number of a prediction that falls as pieces are hidden, in words."""
    method: str
    """How the bounds were taken."""
    needed_examples: Count | None
    """About how many examples would settle it with a chance of 80%. Null: it is settled, or no
    number would do."""
    uninformed: str
    """The best of the attributions that know nothing of an example."""
    uninformed_agreement: Number
    """Its agreement on the same examples."""
    uninformed_most: Number
    """One-sided upper bound of that."""


@dataclass(frozen=True)
class GroupError:
    """The error rate of one group of examples before and after; it is 1 less the score."""

    name: str
    """Such as `source = web`, as in `slices[].name`."""
    num_examples: Count
    """Examples in it; of queries or documents those."""
    before: Number
    """Error rate of the untouched checkpoint, fraction."""
    after: Number
    """Error rate of the compressed model, fraction."""
    change: Number
    """`after` less `before`, fraction; negative where it fell."""


@dataclass(frozen=True)
class GapRecord:
    """How unlike the groups of one column are, before and after, and what is proven about that.

    Differences and ratios are between the groups with the highest and the lowest error rate; `gap`
    is between those whose error rates changed most and least.
    """

    column: str
    """`label`, `length` or a column, as in `budget.slices`."""
    groups: tuple[GroupError, ...]
    """Its groups, those first whose error rate rose most."""
    difference_before: Number
    """Highest less lowest error rate of the untouched checkpoint, fraction."""
    difference_after: Number
    """The same of the compressed model."""
    ratio_before: Number | None
    """Lowest over highest error rate of the untouched checkpoint. Null: it makes no errors."""
    ratio_after: Number | None
    """The same of the compressed model."""
    gap: Number
    """Largest change of a group's error rate less the smallest, fraction."""
    upper_bound: Number
    """One-sided upper bound of the gap, fraction."""
    lower_bound: Number
    """One-sided lower bound of the gap, fraction; never below 0."""
    confidence: Quantity
    """Of each bound by itself, fraction."""
    max_gap: Quantity | None = None
    """Same as `budget.max_slice_gap`. Null: the recipe has none."""
    verdict: CertificateVerdict | None = None
    """`certified`: the upper bound is at most `max_gap`; `refuted`: the lower bound is above it;
    `inconclusive`: neither. Null: there is no `max_gap`."""


def least_proof(num_examples: int, confidence: float) -> float:
    """Return the smallest drop in accuracy that so many examples prove: that of no change at all.

    Ref: Tango 1998, Statistics in Medicine 17:891, with the correction of `tango_upper_bound`.
    """
    return bound_without_flips(num_examples, NormalDist().inv_cdf(confidence), corrected=True)


def bound_without_flips(num_examples: int, z: float, *, corrected: bool) -> float:
    """Solve n d - correction = z sqrt(n d (1 - d)) for the drop d, larger root."""
    shift = count_correction(z, skewness=1.0) if corrected else 0.0
    linear = 2 * shift + z**2
    root = math.sqrt(linear**2 - 4 * shift**2 * (1 + z**2 / num_examples))
    return (linear + root) / (2 * (num_examples + z**2))


def count_correction(z: float, skewness: float) -> float:
    """Return how many examples the observed count is moved against the verdict, never below 0."""
    return max(0.0, 0.5 - skewness * (z**2 - 1) / 6)
