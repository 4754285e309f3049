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
from compressor.certificate.numbers import certify_correlation, certify_mean
from compressor.certificate.power import scaled_size
from compressor.measurements import AGREEMENT, SPEARMAN, Certificate, Score, Uninformed
from compressor.tasks import Guess

_METRICS: Mapping[str, MetricFunction] = {
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
}


def certify_scores(
    before: Score,
    after: Score,
    truth: NDArray[Any] | None,
    *,
    guesses: Sequence[Guess],
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
    resamples: int = 9999,
) -> Certificate:
    """Certify the drop between two scores of one metric on the examples that `truth` belongs to.

    `truth`, shape `(num_examples,)`, are class ids or, for `spearman`, grades. Agreement by
    `certify_agreement` (without `truth`), accuracy by `certify_paired`, `spearman` by
    `certify_correlation`, what is a mean of numbers by `certify_mean`, any other metric by
    `certify_metric`; raises as they do, and `KeyError` for a metric without a bound.

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
    proof = _bounds(before, after, truth, **settings)
    best = max(guesses, key=lambda guess: guess.score.value)
    known = _bounds(before, best.score, truth, **settings)
    uninformed = Uninformed(best.who, best.score.value, known.lower_bound)
    is_constant = after.shares is None and bool(np.all(after.outcomes == after.outcomes[0]))
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
    truth: NDArray[Any] | None,
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


def _bounds(
    before: Score,
    after: Score,
    truth: NDArray[Any] | None,
    *,
    max_drop: float,
    confidence: float,
    seed: int,
    resamples: int,
) -> Certificate:
    """Return what is proven about the drop alone, whatever a model that knows nothing scores."""
    if before.metric == AGREEMENT:
        flips = before.outcomes != after.outcomes
        return certify_agreement(flips, max_drop=max_drop, confidence=confidence)
    if before.shares is not None and after.shares is not None and before.metric != SPEARMAN:
        return certify_mean(
            before.metric,
            before.shares,
            after.shares,
            max_drop=max_drop,
            confidence=confidence,
            seed=seed,
            resamples=resamples,
        )
    if truth is None:
        raise ValueError(f"labels: {before.metric} cannot be certified without them")
    if before.shares is not None and after.shares is not None:
        return certify_correlation(
            before.shares,
            after.shares,
            truth,
            max_drop=max_drop,
            confidence=confidence,
            seed=seed,
            resamples=resamples,
        )
    if before.metric == "accuracy":
        return certify_paired(
            before.outcomes == truth,
            after.outcomes == truth,
            max_drop=max_drop,
            confidence=confidence,
        )
    return certify_metric(
        _METRICS[before.metric],
        before.outcomes,
        after.outcomes,
        np.asarray(truth, dtype=np.int64),
        max_drop=max_drop,
        confidence=confidence,
        seed=seed,
        resamples=resamples,
    )
