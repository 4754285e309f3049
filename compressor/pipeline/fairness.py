"""Whether compression hurts some groups more than others.

A slice says how far one group fell. Here the groups of one column are held against each other: the
difference of their error rates before and after, as toolkits of fairness report it (Fairlearn's
`MetricFrame.difference` and `ratio` of the error rate, between groups), and how much further the
error of one rose than that of another, which is what compression did to them.

A gap says nothing of the level: a model that is ruined for everybody has none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from compressor.certificate import certify_drop, certify_paired, hits_of
from compressor.certificate.gaps import Bounded, largest_gap
from compressor.data import Dataset
from compressor.measurements import Certificate, GapRecord, Score
from compressor.pipeline.slices import Mask, of_slice, of_units
from compressor.proof import CertificateVerdict, GroupError
from compressor.tasks import find_metric

_ANY_DROP = 1.0 - 1e-9  # bounds alone are asked for
_MOST = 2.0  # of the drop of a score from 1 to -1


def judge_gaps(
    split: Dataset,
    columns: Mapping[str, Mapping[str, Mask]],
    before: Score,
    after: Score,
    *,
    max_gap: float | None,
    confidence: float,
    seed: int,
) -> tuple[GapRecord, ...]:
    """Return how unlike the groups of each column fared; those with fewer than two are left out.

    The error rate is 1 less the accuracy of a classifier, and 1 less the metric where that is made
    of numbers; without labels it is the share of changed predictions.
    """
    found = []
    for column, masks in columns.items():
        kept = {name: mask for name, mask in masks.items() if of_units(mask, before).any()}
        if len(kept) > 1:
            found.append(_judge(split, column, kept, before, after, max_gap, confidence, seed))
    return tuple(found)


def _judge(
    split: Dataset,
    column: str,
    masks: Mapping[str, Mask],
    before: Score,
    after: Score,
    max_gap: float | None,
    confidence: float,
    seed: int,
) -> GapRecord:
    errors: list[GroupError] = []
    bounds: dict[str, Callable[[float], Bounded]] = {}
    if find_metric(before.metric).is_fine:
        for name, mask in masks.items():
            units = of_units(mask, before)
            ends = of_slice(before, units), of_slice(after, units)
            errors.append(_group(name, int(units.sum()), *map(_error_of, ends)))
            bounds[name] = functools.partial(_fine_bounds, *ends, seed)
    else:
        right = before.outcomes if split.class_ids is None else split.class_ids
        was, now = (hits_of(score, right) for score in (before, after))
        for name, mask in masks.items():
            own = was[mask], now[mask]
            rates = [1 - float(np.mean(hits)) for hits in own]
            errors.append(_group(name, int(mask.sum()), rates[0], rates[1]))
            bounds[name] = functools.partial(_hit_bounds, *own)
    found = largest_gap(bounds, confidence=confidence)
    first, last = [item.before for item in errors], [item.after for item in errors]
    return GapRecord(
        column=column,
        groups=tuple(sorted(errors, key=lambda item: (-item.change, item.name))),
        difference_before=max(first) - min(first),
        difference_after=max(last) - min(last),
        ratio_before=_ratio(first),
        ratio_after=_ratio(last),
        gap=found.gap,
        upper_bound=found.upper,
        lower_bound=found.lower,
        confidence=confidence,
        max_gap=max_gap,
        verdict=_verdict(found.lower, found.upper, max_gap),
    )


def _group(name: str, count: int, before: float, after: float) -> GroupError:
    return GroupError(name, count, before, after, after - before)


def _ratio(rates: list[float]) -> float | None:
    return min(rates) / max(rates) if max(rates) > 0 else None


def _verdict(lower: float, upper: float, max_gap: float | None) -> CertificateVerdict | None:
    if max_gap is None:
        return None
    if upper <= max_gap:
        return "certified"
    return "refuted" if lower > max_gap else "inconclusive"


def _hit_bounds(was: NDArray[np.bool_], now: NDArray[np.bool_], confidence: float) -> Bounded:
    return _bounded(certify_paired(was, now, max_drop=_ANY_DROP, confidence=confidence))


def _fine_bounds(before: Score, after: Score, seed: int, confidence: float) -> Bounded:
    proof = certify_drop(before, after, None, max_drop=_ANY_DROP, confidence=confidence, seed=seed)
    return _bounded(proof)


def _bounded(proof: Certificate) -> Bounded:
    return Bounded(proof.drop, proof.lower_bound, min(_MOST, proof.upper_bound))


def _error_of(score: Score) -> float:
    """Return 1 less the metric of the units of a score."""
    metric = find_metric(score.metric)
    if score.sums is not None and metric.statistic is not None:
        return 1 - float(metric.statistic(score.sums.sum(axis=0)))
    assert score.shares is not None, "slices of correlations are refused"
    return 1 - metric.value_of(score.shares)
