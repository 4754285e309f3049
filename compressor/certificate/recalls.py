"""Verdicts about what must not be missed: the recall of each class or type of entity.

Of everything of one kind that is there, by the labels or because the untouched checkpoint found it,
the two models find some. The drop is that of the share they find. Where a unit holds one thing at
most, such as an example of a class, the bounds are those of paired examples; entities of one
document are not independent, so there documents are resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate.bootstrap import Floats, Resampled
from compressor.certificate.certify import (
    Limits,
    certify_agreement,
    certify_paired,
    holm_levels,
)
from compressor.certificate.score_bound import noninferiority_p_value
from compressor.certificate.sums import certify_sums, extended_drop
from compressor.measurements import Certificate
from compressor.tasks import Findings, Metric
from compressor.tasks.metrics import first_over_second, none_of_it

RECALL = Metric(
    "recall",
    "recall",
    "the share that is found of what is there",
    "sums",
    unit="document",
    units="documents",
    statistic=first_over_second,
    lost=none_of_it,
)


@dataclass(frozen=True)
class Limited:
    """What two models found of one kind, and how far the share may fall.

    `only_losses`: what is there is what the first model found, so that nothing can be won.
    """

    findings: Findings
    max_drop: float
    only_losses: bool


def certify_recalls(
    kinds: Mapping[str, Limited],
    *,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> dict[str, Certificate | None]:
    """Certify each kind so that with `confidence` not one of them is certified wrongly.

    Holm's procedure over all kinds: the clearest is tested at (1 - confidence) / number of kinds,
    the next at one less, until one fails. None for a kind of which nothing is there.

    Raises `ValueError` when there is no kind, or a setting is out of range.
    Ref: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    if not kinds:
        raise ValueError("kinds: must name at least one, got none")
    for limited in kinds.values():
        Limits(limited.max_drop, confidence)  # which raises for one out of range
    present = {name: item for name, item in kinds.items() if item.findings.there.any()}
    drawn: Any = {"seed": seed, "resamples": resamples}
    p_values = [_p_value(item, **drawn) for item in present.values()]
    levels = holm_levels(p_values, 1 - confidence) if present else []
    proofs: dict[str, Certificate | None] = dict.fromkeys(kinds)
    for (name, item), level in zip(present.items(), levels, strict=True):
        proofs[name] = _certify(item, 1 - level, **drawn)
    return proofs


def is_single(findings: Findings) -> bool:
    """Return whether every unit holds one thing at most."""
    return bool(findings.there.max(initial=0) <= 1)


def _pairs(findings: Findings) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    there = findings.there > 0
    return findings.before[there] > 0, findings.after[there] > 0


def _sums(findings: Findings) -> tuple[Floats, Floats]:
    there = findings.there > 0
    before, after = (
        np.stack([found[there], findings.there[there]], axis=1).astype(np.float64)
        for found in (findings.before, findings.after)
    )
    return before, after


def _p_value(item: Limited, *, seed: int, resamples: int) -> float:
    """Return how likely so small a drop is where the true one is above the limit."""
    findings = item.findings
    if is_single(findings):
        before, after = _pairs(findings)
        losses, wins = int(np.sum(before & ~after)), int(np.sum(after & ~before))
        if item.only_losses:
            return float(stats.binom.cdf(losses, len(before), item.max_drop))
        return noninferiority_p_value(losses, wins, len(before), max_drop=item.max_drop)
    drop = extended_drop(RECALL, *_sums(findings))
    if np.ptp(drop.without_one()) <= 1e-12:  # every unit lost all it had
        return 1.0
    return Resampled.of(drop, seed=seed, resamples=resamples).p_value(item.max_drop)


def _certify(item: Limited, confidence: float, *, seed: int, resamples: int) -> Certificate:
    limits: Any = {"max_drop": item.max_drop, "confidence": confidence}
    if not is_single(item.findings):
        return certify_sums(RECALL, *_sums(item.findings), seed=seed, resamples=resamples, **limits)
    before, after = _pairs(item.findings)
    if item.only_losses:
        return certify_agreement(before & ~after, **limits)
    return certify_paired(before, after, **limits)


def limits_of(limits: float | Mapping[str, float], kinds: Sequence[str]) -> dict[str, float]:
    """Return the limit of each kind that has one.

    >>> limits_of(0.01, ["a", "b"]), limits_of({"b": 0.02}, ["a", "b"])
    ({'a': 0.01, 'b': 0.01}, {'b': 0.02})
    """
    if isinstance(limits, Mapping):
        return dict(limits)
    return dict.fromkeys(kinds, limits)
