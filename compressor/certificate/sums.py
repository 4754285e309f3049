"""Verdicts about scores that are taken from sums over units, such as the F1 of entities.

A unit is what is independent of the rest: a document with all its entities, a query with all its
candidates. What it adds to the sums is kept for each, so the bound is a paired bootstrap (BCa) over
units, whatever they hold. As for the other scores, one unit is added that lost everything; as units
are not of one size, it is one like those that a lost point most likely belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.certificate.bootstrap import Classes, Drop, Floats, resampled_bound
from compressor.certificate.certify import (
    Limits,
    Observed,
    draw_bootstrap_verdict,
    draw_verdict,
)
from compressor.measurements import Certificate
from compressor.tasks import Metric

_ROUNDING = 1e-12  # differences below it are summation order, and no win or loss


@dataclass(frozen=True)
class SummedDrop:
    """The drop of a statistic of sums, by the pairs of rows that occur."""

    metric: Metric
    before: Floats  # (num_cells, num_sums)
    after: Floats
    counts: Classes

    @classmethod
    def of_rows(cls, metric: Metric, before: Floats, after: Floats) -> SummedDrop:
        """Count the units that are equal in both models."""
        width = before.shape[1]
        both, counts = np.unique(np.hstack([before, after]), axis=0, return_counts=True)
        return cls(metric, both[:, :width], both[:, width:], counts)

    @property
    def name(self) -> str:
        """Return the name of the metric."""
        return self.metric.name

    def of(self, counts: Floats) -> Floats:
        """Return the drops of counts of shape `(batch, num_cells)`."""
        return self._between(counts @ self.before, counts @ self.after)

    def without_one(self) -> Floats:
        """Return the drop without one unit of each cell."""
        before, after = self.counts @ self.before, self.counts @ self.after
        return self._between(before - self.before, after - self.after)

    def _between(self, before: Floats, after: Floats) -> Floats:
        return np.asarray(_statistic(self.metric, before) - _statistic(self.metric, after))


def certify_sums(
    metric: Metric,
    before: Floats,
    after: Floats,
    *,
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Certify the drop of `metric.statistic`; both arrays are `(num_units, num_sums)`.

    Losses count the units that by themselves lower the score, wins those that raise it. Raises
    `ValueError` when the arrays are empty, do not pair up or hold a number that is not finite, or a
    setting is out of range. Where nothing could be lost, nothing is proven.
    Ref: Efron 1987, JASA 82:171.
    """
    limits = Limits(max_drop, confidence)
    _check_sums(metric, before=before, after=after)

    def bound(first: Floats, second: Floats) -> tuple[float, float]:
        drop = extended_drop(metric, first, second)
        left_out = drop.without_one()
        if np.ptp(left_out) <= _ROUNDING:  # every unit lost all it had, as the one that is added
            return float(left_out[0]), 0.0
        return resampled_bound(drop, confidence=confidence, seed=seed, resamples=resamples)

    observed = _observed(metric, before, after)
    if not harms(metric, before).any():  # such as documents without an entity
        return draw_verdict(
            observed,
            limits,
            upper_bound=1.0,
            lower_bound=min(observed.drop, 0.0),
            needed=lambda: None,
            method=f"none: no {metric.unit} holds anything that could be lost",
        )
    return draw_bootstrap_verdict(
        observed,
        limits,
        bounds=(bound(before, after), bound(after, before)),
        drops=lambda: (
            SummedDrop.of_rows(metric, before, after),
            extended_drop(metric, before, after),
        ),
        method=f"paired BCa bootstrap over {metric.units}, {resamples} resamples, one lost "
        f"{metric.unit} added",
    )


def _check_sums(metric: Metric, *, before: Floats, after: Floats) -> None:
    for name, array in (("before", before), ("after", after)):
        fits = array.shape == before.shape and array.ndim == 2 and len(array) > 0
        if not fits or not np.isfinite(array).all():
            raise ValueError(
                f"{name}: must be a row of finite numbers for each {metric.unit}, the same "
                f"{metric.units} as in before, got shape {array.shape}"
            )


def _observed(metric: Metric, before: Floats, after: Floats) -> Observed:
    """Return the drop with the number of units, of those that raise and of those that lower it."""
    drop = float(_statistic(metric, before.sum(axis=0)) - _statistic(metric, after.sum(axis=0)))
    alone = _alone(metric, before, after)
    wins, losses = int(np.sum(alone < -_ROUNDING)), int(np.sum(alone > _ROUNDING))
    return Observed(metric.name, drop, len(before), wins, losses)


def extended_drop(metric: Metric, before: Floats, after: Floats) -> Drop:
    """Return the drop with one unit more, which lost everything."""
    unit, lost = typical_loss(metric, before)
    return SummedDrop.of_rows(metric, np.vstack([before, unit]), np.vstack([after, lost]))


def typical_loss(metric: Metric, units: Floats) -> tuple[Floats, Floats]:
    """Return a unit, and what it adds once everything in it is lost; both have `(num_sums,)`.

    It is the unit whose loss lowers the score by the mean loss of a point: of losses h the sum of
    h^2 over the sum of h, as large documents hold more of what can be lost.
    """
    assert metric.lost is not None, "a metric of sums has it"
    lost = metric.lost(units, units.sum(axis=0))
    harm = harms(metric, units)
    total = float(harm.sum())
    wanted = float((harm**2).sum()) / total if total > 0 else 0.0
    chosen = int(np.argmin(np.abs(harm - wanted)))
    return units[chosen], lost[chosen]


def harms(metric: Metric, units: Floats) -> Floats:
    """Return how far the score falls where one unit alone is lost, shape `(num_units,)`."""
    assert metric.lost is not None, "a metric of sums has it"
    lost = metric.lost(units, units.sum(axis=0))
    return np.maximum(_alone(metric, units, lost), 0.0)


def _alone(metric: Metric, before: Floats, after: Floats) -> Floats:
    """Return how far each unit alone would lower the score, shape `(num_units,)`."""
    total = before.sum(axis=0)
    return np.asarray(
        _statistic(metric, total) - _statistic(metric, total - before + after), np.float64
    )


def _statistic(metric: Metric, sums: Floats) -> Floats:
    assert metric.statistic is not None, "a metric of sums has it"
    return np.asarray(metric.statistic(sums), np.float64)
