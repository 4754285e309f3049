"""Verdicts about a drop from paired examples: certified, refuted or inconclusive.

Both models predict the same examples, so only those on which they differ say anything: `losses`
were right before and wrong after, `wins` the reverse. The question is one of non-inferiority: the
one-sided upper bound of the drop must not exceed `max_drop`.

Examples are taken as independent draws of what the model will meet. Sentences cut from one document
are not: then take one example of each document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate.bootstrap import (
    Classes,
    Drop,
    MetricDrop,
    MetricFunction,
    bca_upper_bound,
    count_classes,
)
from compressor.certificate.power import (
    examples_for_accuracy,
    examples_for_agreement,
    scaled_size,
)
from compressor.certificate.resampled_power import examples_for_resampled
from compressor.certificate.score_bound import (
    holm,
    noninferiority_p_value,
    tango_upper_bound,
)
from compressor.measurements import Certificate, CertificateVerdict
from compressor.tasks import find_metric
from compressor.tasks.metrics import AGREEMENT

Booleans = NDArray[np.bool_]

# NumPy's letters for the types of an array, and what to call its entries.
_KINDS = {"truth": ("b", "true or false"), "class": ("iu", "a class (0, 1, ...)")}


@dataclass(frozen=True)
class Limits:
    """What is to be proven: a drop of at most `max_drop`, with `confidence`.

    Raises `ValueError` for a setting out of range.
    """

    max_drop: float
    confidence: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"max_drop: must be at least 0 and below 1, got {self.max_drop!r}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(
                f"confidence: must lie strictly between 0.5 and 1 (0.95 is usual), got "
                f"{self.confidence!r}"
            )


@dataclass(frozen=True)
class Observed:
    """What two models did on the same examples: the drop, and on how many one was the better."""

    metric: str
    drop: float
    num_examples: int
    wins: int
    losses: int


def certify_paired(
    before_right: Booleans, after_right: Booleans, *, max_drop: float, confidence: float = 0.95
) -> Certificate:
    """Certify the drop in accuracy of two models on the same examples, both `(num_examples,)`.

    Raises `ValueError` when the arrays are empty or do not pair up, or a setting is out of range.
    Ref: Tango 1998, Statistics in Medicine 17:891, eqs. 24-26.
    """
    limits = Limits(max_drop, confidence)
    before, after = _paired("truth", before_right=before_right, after_right=after_right)
    losses, wins = int(np.sum(before & ~after)), int(np.sum(after & ~before))
    return _certify_counts(losses, wins, len(before), limits)


def certify_agreement(flips: Booleans, *, max_drop: float, confidence: float = 0.95) -> Certificate:
    """Certify without labels: accuracy cannot fall by more than the share of changed predictions.

    `flips`, shape `(num_examples,)`, says where the two models differ. The bounds are exact
    (Clopper and Pearson 1934). `drop` is the flip rate and every flip counts as a loss, so
    `refuted` means that too many predictions changed, not that accuracy fell.

    Raises `ValueError` when `flips` is empty or a setting is out of range.
    """
    limits = Limits(max_drop, confidence)
    (changed,) = _paired("truth", flips=flips)
    count, total = int(np.sum(changed)), len(changed)
    upper = stats.binomtest(count, total, alternative="less")
    lower = stats.binomtest(count, total, alternative="greater")
    rate = count / total

    def needed() -> int | None:
        return examples_for_agreement(
            rate, max_drop=max_drop, confidence=confidence, more_than=total
        )

    return draw_verdict(
        Observed(AGREEMENT.name, rate, total, wins=0, losses=count),
        limits,
        upper_bound=float(upper.proportion_ci(confidence, method="exact").high),
        lower_bound=float(lower.proportion_ci(confidence, method="exact").low),
        needed=needed,
        method="exact binomial bound of the flip rate",
    )


def certify_metric(
    metric_function: MetricFunction,
    before_outcomes: Classes,
    after_outcomes: Classes,
    labels: Classes,
    *,
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Certify the drop of a score that is no mean over examples, by paired bootstrap (BCa).

    All three arrays hold classes 0, 1, ... and have shape `(num_examples,)`. `metric_function`,
    such as `f1_macro`, makes scores of counts of hits, predictions and labels.
    `bca_upper_bound` says how the bound is taken when little or nothing flips.

    Raises `ValueError` when the arrays do not pair up, a setting is out of range, or the score
    does not vary over the resamples, so that no bound exists.
    Ref: Efron 1987, JASA 82:171.
    """
    limits = Limits(max_drop, confidence)
    before, after, truth = _paired(
        "class", before_outcomes=before_outcomes, after_outcomes=after_outcomes, labels=labels
    )

    def bound(first: Classes, second: Classes) -> tuple[float, float]:
        return bca_upper_bound(
            metric_function,
            first,
            second,
            truth,
            confidence=confidence,
            seed=seed,
            resamples=resamples,
        )

    def drops() -> tuple[Drop, Drop]:
        _, ids = np.unique(np.stack([before, after, truth]), return_inverse=True)
        columns = ids.reshape(3, -1)
        table = MetricDrop.of_rows(metric_function, *columns, num_classes=int(ids.max()) + 1)
        return table, table.with_worst_flip()

    lost = (before == truth) & (after != truth)
    won = (before != truth) & (after == truth)
    drop = float(
        metric_function(count_classes(before, truth)) - metric_function(count_classes(after, truth))
    )
    return draw_bootstrap_verdict(
        Observed(metric_function.__name__, drop, len(truth), int(won.sum()), int(lost.sum())),
        limits,
        bounds=(bound(before, after), bound(after, before)),
        drops=drops,
        method=f"paired BCa bootstrap, {resamples} resamples, one flip added",
    )


def certify_slices(
    slices: Mapping[str, Booleans],
    before_right: Booleans,
    after_right: Booleans,
    *,
    max_drop: float,
    confidence: float = 0.95,
) -> dict[str, Certificate]:
    """Certify each slice so that with `confidence` not one of them is certified wrongly.

    A slice is a mask of shape `(num_examples,)`; slices may overlap. Holm's procedure tests the
    clearest slice at (1 - confidence) / number of slices, the next at one less, and so on until
    one fails; the rest are tested as that one was. The `confidence` of each certificate is the
    one its slice was tested with.

    Raises `ValueError` when there is no slice or a slice is empty, besides the reasons of
    `certify_paired`.
    Ref: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    limits = Limits(max_drop, confidence)
    if not slices:
        raise ValueError("slices: must name at least one slice, got none")
    counts = [_slice_counts(*item, before_right, after_right) for item in slices.items()]
    p_values = [noninferiority_p_value(*item, max_drop=max_drop) for item in counts]
    levels = holm_levels(p_values, 1 - confidence)
    return {
        name: _certify_counts(*item, replace(limits, confidence=1 - level))
        for name, item, level in zip(slices, counts, levels, strict=True)
    }


def _certify_counts(losses: int, wins: int, num_examples: int, limits: Limits) -> Certificate:
    confidence = limits.confidence

    def needed() -> int | None:
        return examples_for_accuracy(
            losses / num_examples,
            wins / num_examples,
            max_drop=limits.max_drop,
            confidence=confidence,
            more_than=num_examples,
        )

    return draw_verdict(
        Observed("accuracy", (losses - wins) / num_examples, num_examples, wins, losses),
        limits,
        upper_bound=tango_upper_bound(losses, wins, num_examples, confidence=confidence),
        lower_bound=-tango_upper_bound(wins, losses, num_examples, confidence=confidence),
        needed=needed,
        method="Tango score bound, corrected for continuity and skewness",
    )


def draw_verdict(
    observed: Observed,
    limits: Limits,
    *,
    upper_bound: float,
    lower_bound: float,
    needed: Callable[[], int | None],
    method: str,
) -> Certificate:
    """Draw the verdict from the bounds of the drop.

    `needed` is asked how many examples would settle the question, where it is open.
    """
    verdict: CertificateVerdict = "inconclusive"
    if upper_bound <= limits.max_drop:
        verdict = "certified"
    elif lower_bound > limits.max_drop:
        verdict = "refuted"
    is_open = verdict == "inconclusive" and observed.drop < limits.max_drop
    return Certificate(
        verdict=verdict,
        metric=observed.metric,
        drop=observed.drop,
        upper_bound=upper_bound,
        lower_bound=lower_bound,
        max_drop=limits.max_drop,
        confidence=limits.confidence,
        num_examples=observed.num_examples,
        wins=observed.wins,
        losses=observed.losses,
        needed_examples=needed() if is_open else None,
        method=method,
    )


def draw_bootstrap_verdict(
    observed: Observed,
    limits: Limits,
    *,
    bounds: tuple[tuple[float, float], tuple[float, float]],
    drops: Callable[[], tuple[Drop, Drop]],
    method: str,
) -> Certificate:
    """Draw the verdict from two bootstraps, of the drop and of the rise.

    `drops` are those that were resampled, without and with the example that is added. What is
    observed lies within its own bounds, also where the added example moved them.
    """
    (upper, _), (negative_lower, _) = bounds

    def needed() -> int | None:
        return examples_for_resampled(
            *drops(),
            max_drop=limits.max_drop,
            confidence=limits.confidence,
            more_than=observed.num_examples,
        )

    return draw_verdict(
        observed,
        limits,
        upper_bound=max(upper, observed.drop),
        lower_bound=min(-negative_lower, observed.drop),
        needed=needed,
        method=method,
    )


def enough_examples(proof: Certificate) -> int | None:
    """Return how many examples would certify a drop like this one with a chance of 80%.

    That these were certified says little of others: as many at the same rates succeed in half of
    all draws, or in nearly all. None where no number would do.
    """
    if proof.verdict != "certified":
        return proof.needed_examples
    losses, wins = proof.losses / proof.num_examples, proof.wins / proof.num_examples
    settings: Any = {"max_drop": proof.max_drop, "confidence": proof.confidence}
    metric = find_metric(proof.metric)
    if metric.bound == "flips":
        return examples_for_agreement(losses, **settings)
    if metric.quantile is not None:
        return examples_for_agreement(losses, **{**settings, "max_drop": metric.quantile})
    if metric.bound == "hits":
        return examples_for_accuracy(losses, wins, **settings)
    return scaled_size(
        proof.num_examples,
        proof.upper_bound - proof.drop,
        proof.max_drop - proof.drop,
        proof.confidence,
    )


def holm_levels(p_values: list[float], level: float) -> list[float]:
    """Return the level that Holm's procedure tests each p-value at.

    Once one has failed, all that are left are tested at the level of that one.
    """
    adjusted = holm(p_values)
    rank = np.argsort(np.argsort(p_values, kind="stable"), kind="stable")
    passed = int(np.sum(adjusted <= level))  # the smallest p-values, up to the first that fails
    return [level / (len(p_values) - min(int(place), passed)) for place in rank]


def _slice_counts(
    name: str, mask: Booleans, before_right: Booleans, after_right: Booleans
) -> tuple[int, int, int]:
    """Return losses, wins and number of examples of one slice."""
    chosen, before, after = _paired(
        "truth", **{f"slices[{name!r}]": mask}, before_right=before_right, after_right=after_right
    )
    if not chosen.any():
        raise ValueError(f"slices[{name!r}]: must hold at least one example, got none")
    lost = int(np.sum(before[chosen] & ~after[chosen]))
    won = int(np.sum(after[chosen] & ~before[chosen]))
    return lost, won, int(chosen.sum())


def _paired(kind: Literal["truth", "class"], **arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the arrays, or say which is empty, of another type or of another length."""
    types, wanted = _KINDS[kind]
    length = len(next(iter(arrays.values())))
    for name, array in arrays.items():
        fits = array.dtype.kind in types and array.shape == (length,) and length > 0
        if not fits or array.min() < 0:
            raise ValueError(
                f"{name}: must be {wanted} for each example, the same examples as in "
                f"{next(iter(arrays))}, got {array.dtype} of shape {array.shape}"
                f"{' with negative entries' if fits else ''}"
            )
    return list(arrays.values())
