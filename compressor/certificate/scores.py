"""Which bound belongs to which score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.certificate.bootstrap import MetricFunction, f1_macro, matthews_correlation
from compressor.certificate.certify import certify_agreement, certify_metric, certify_paired
from compressor.certificate.numbers import certify_correlation, certify_mean
from compressor.measurements import AGREEMENT, SPEARMAN, Certificate, Score

_METRICS: Mapping[str, MetricFunction] = {
    "f1_macro": f1_macro,
    "matthews_correlation": matthews_correlation,
}


def certify_scores(
    before: Score,
    after: Score,
    truth: NDArray[Any] | None,
    *,
    max_drop: float,
    confidence: float = 0.95,
    seed: int,
) -> Certificate:
    """Certify the drop between two scores of one metric on the examples that `truth` belongs to.

    `truth`, shape `(num_examples,)`, are class ids or, for `spearman`, grades. Agreement by
    `certify_agreement` (without `truth`), accuracy by `certify_paired`, `spearman` by
    `certify_correlation`, what is a mean of numbers by `certify_mean`, any other metric by
    `certify_metric`; raises as they do, and `KeyError` for a metric without a bound.
    """
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
    )
