"""The certificate of each metric, by the bound that fits it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.certificate.bootstrap import MetricFunction, f1_macro, matthews_correlation
from compressor.certificate.certify import (
    certify_agreement,
    certify_metric,
    certify_paired,
    enough_examples,
)
from compressor.certificate.numbers import certify_correlation, certify_mean, certify_quantile
from compressor.certificate.power import scaled_size
from compressor.certificate.sums import certify_sums
from compressor.measurements import Certificate, Score, Uninformed
from compressor.tasks import Guess, find_metric
from compressor.tasks.outputs import LabelArray, one_each

_HALF = 0.5  # above it a share of 0 or 1 is a hit
_METRICS: Mapping[str, MetricFunction] = {
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
}


def certify_scores(
    before: Score,
    after: Score,
    truth: LabelArray | None,
    *,
    guesses: Sequence[Guess],
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Certify the drop between two scores of one metric on the examples that `truth` belongs to.

    `truth`, shape `(num_examples,)`, are class ids or, for a correlation, numbers; it is not read
    for metrics without labels, means, quantiles, sums, and hits whose `Score.shares` say which they
    are. The bound is what `Metric.bound` says; raises as `certify_agreement`, `certify_paired`,
    `certify_metric`, `certify_mean`, `certify_quantile`, `certify_correlation` and `certify_sums`
    do, and `KeyError` for a metric that no task has.

    `resamples` are those of a bootstrap, where the bound is one.

    `guesses` are scores of models that know nothing of the input, on the same examples. Unless the
    best of them is refuted by the same bounds, a drop within `max_drop` tells no good model from
    it, and the verdict is inconclusive; likewise for a model that gives one prediction for
    everything.
    """
    settings: Any = {
        "max_drop": max_drop,
        "confidence": confidence,
        "seed": seed,
        "resamples": resamples,
    }
    proof = certify_drop(before, after, truth, **settings)
    best = max(guesses, key=lambda guess: guess.score.value)
    known = certify_drop(before, best.score, truth, **settings)
    uninformed = Uninformed(best.who, best.score.value, known.lower_bound)
    is_constant = not find_metric(before.metric).is_fine and bool(
        np.all(after.outcomes == after.outcomes[0])
    )
    proves_nothing = known.verdict != "refuted" or is_constant
    verdict = proof.verdict
    if proves_nothing and verdict == "certified":
        verdict = "inconclusive"
    settled = verdict != "inconclusive"
    return dataclasses.replace(
        proof,
        verdict=verdict,
        needed_examples=None if settled else _enough(proof, uninformed, before.value),
        uninformed=uninformed,
    )


def rows_to_certify(
    before: Score,
    after: Score,
    truth: LabelArray | None,
    *,
    guesses: Sequence[Guess],
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
) -> int | None:
    """Return how many other examples like these would certify the drop; None where none would.

    Arguments and errors are those of `certify_scores`. The chance is 80%; so where these examples
    would certify it, more or fewer may be what it takes.
    """
    proof = certify_scores(
        before,
        after,
        truth,
        guesses=guesses,
        max_drop=max_drop,
        confidence=confidence,
        seed=seed,
    )
    if proof.verdict == "inconclusive" or proof.uninformed is None:
        return proof.needed_examples
    return _enough(proof, proof.uninformed, before.value)


def _enough(proof: Certificate, uninformed: Uninformed, before: float) -> int | None:
    """Return how many examples would prove the drop, and refute the model that knows nothing.

    `proof` is about the drop alone, `before` the score of the untouched checkpoint. None where the
    model that knows nothing lies within the budget: more examples only show that better.
    """
    assert uninformed.least_drop is not None, "its bounds were just taken"
    drop = before - uninformed.score
    told = scaled_size(
        proof.num_examples, drop - uninformed.least_drop, drop - proof.max_drop, proof.confidence
    )
    needed = enough_examples(proof)
    return None if needed is None or told is None else max(needed, told)


def certify_drop(
    before: Score,
    after: Score,
    truth: LabelArray | None,
    *,
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Return what is proven about the drop alone, whatever a model that knows nothing scores.

    Arguments and errors are those of `certify_scores`.
    """
    metric = find_metric(before.metric)
    limits: Any = {"max_drop": max_drop, "confidence": confidence}
    drawn: Any = {**limits, "seed": seed, "resamples": resamples}
    if metric.bound == "flips":
        return certify_agreement(before.outcomes != after.outcomes, **limits)
    if metric.bound == "sums":
        return certify_sums(metric, *_both(metric.name, before.sums, after.sums), **drawn)
    if metric.bound == "mean":
        old, new = _both(metric.name, before.shares, after.shares)
        return certify_mean(metric.name, old, new, units=metric.units, **drawn)
    if metric.quantile is not None:
        old, new = _both(metric.name, before.shares, after.shares)
        named: Any = {"quantile": metric.quantile, "units": metric.units}
        return certify_quantile(metric.name, old, new, **named, **limits)
    if metric.bound == "hits" and before.shares is not None:
        _both(metric.name, before.shares, after.shares)
        return certify_paired(hits_of(before, None), hits_of(after, None), **limits)
    if truth is None:
        raise ValueError(f"labels: {metric.name} cannot be certified without them")
    if metric.bound == "correlation":
        old, new = _both(metric.name, before.shares, after.shares)
        return certify_correlation(metric.name, old, new, one_each(truth), **drawn)
    if metric.bound == "hits":
        return certify_paired(hits_of(before, truth), hits_of(after, truth), **limits)
    return certify_metric(
        _METRICS[metric.name],
        before.outcomes,
        after.outcomes,
        np.asarray(truth, dtype=np.int64),
        **drawn,
    )


def hits_of(score: Score, right: LabelArray | None) -> NDArray[np.bool_]:
    """Return which examples are right, shape `(num_examples,)`.

    Those whose outcome is the one in `right`, or whose share is 1 where the score has shares.
    """
    if score.shares is not None:
        return score.shares > _HALF
    return np.asarray(score.outcomes == right)


def _both(
    metric: str, before: NDArray[np.float64] | None, after: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if before is None or after is None:
        raise ValueError(f"{metric}: both scores must hold what each example contributes")
    return before, after
