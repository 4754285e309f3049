"""How far two models' attributions put the pieces of an example in the same order.

The agreement of an example is Spearman's rank correlation of its attributions before and after:
what matters is which words carry a prediction, not by how many nats. It is 1 for the same order, 0
for unrelated ones. Ties share their mean rank, and a model whose attributions are all alike, which
looks at nothing, agrees by 0. That of a model is the mean over examples, with a bootstrap's bound.

Some agreement needs no model at all: attributions may simply fall from the first token to the last,
or be the larger the more of the input is hidden. So, as for scores, what attributions that know
nothing reach is taken on the same examples, and where the budget would let them pass, nothing is
proven.

Ref: Spearman 1904, American Journal of Psychology 15:72; as an agreement of attributions Ghorbani
et al. 2019, arXiv:1710.10547, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate import certify_mean, spearman
from compressor.errors import StepFailed
from compressor.proof import AttributionRecord, Certificate

Floats = NDArray[np.float64]

SAMPLED = {"search": 100, "certification": 200}  # examples of a split, at most
_FEWEST_PIECES = 3  # two are in one order or the other, whatever a model knows
_FEWEST_EXAMPLES = 5
_METRIC = "attribution agreement"
# Attributions that know nothing of an example.
UNINFORMED = (
    "attributions that fall from the first piece to the last",
    "attributions that rise from the first piece to the last",
    "attributions of another example",
    "attributions by how much of the input a piece is",
)


def sampled_rows(
    num_rows: int, most: int, *, seed: int, units: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return which rows of a split are explained, ascending: the same for every model of a run.

    Of rows that belong together, such as the candidates of a query, one is taken: `units`, shape
    `(num_rows,)`, are the numbers of what they belong to, negative for rows that are not judged.
    """
    order = np.random.RandomState(seed).permutation(num_rows)
    if units is not None:
        order = order[units[order] >= 0]
        _, first = np.unique(units[order], return_index=True)
        order = order[np.sort(first)]
    return np.asarray(np.sort(order[:most]), dtype=np.int64)


def agreements(before: Sequence[Floats], after: Sequence[Floats]) -> Floats:
    """Return the agreement of each example, shape `(num_examples,)`.

    NaN where the attributions before say nothing: fewer than three pieces, or all alike.
    """
    pairs = zip(before, after, strict=True)
    return np.array([rank_agreement(first, second) for first, second in pairs], dtype=np.float64)


def rank_agreement(before: Floats, after: Floats) -> float:
    """Return Spearman's correlation of two attributions of one example; NaN as `agreements`.

    >>> rank_agreement(np.array([3.0, 2.0, 1.0]), np.array([9.0, 1.0, 2.0]))
    0.5
    >>> rank_agreement(np.array([3.0, 2.0, 1.0]), np.zeros(3))
    0.0
    """
    if len(before) < _FEWEST_PIECES or np.ptp(before) == 0:
        return float("nan")
    return float(np.round(spearman(before, after), 12))  # equal orders are exactly 1


def kendall_agreement(before: Floats, after: Floats) -> float:
    """Return Kendall's tau-b, which counts pairs in the same order; NaN and 0 as above.

    Ref: Kendall 1945, Biometrika 33:239.
    """
    if len(before) < _FEWEST_PIECES or np.ptp(before) == 0:
        return float("nan")
    if np.ptp(after) == 0:
        return 0.0
    return float(stats.kendalltau(before, after).statistic)


def uninformed_agreements(before: Sequence[Floats], changes: Sequence[Floats]) -> Floats:
    """Return what the attributions of `UNINFORMED` reach, shape `(num_examples, 4)`.

    Those of another example are that of the next one, stretched to as many pieces. `changes`, of
    the shapes of `before`, are how much of the input hiding each piece changes: any model of random
    weights moves most where most is hidden.
    """
    found = np.empty((len(before), len(UNINFORMED)))
    for place, (own, changed) in enumerate(zip(before, changes, strict=True)):
        size = len(own)
        other = next((item for item in (*before[place + 1 :], *before) if len(item)), np.zeros(1))
        places = np.linspace(0, len(other) - 1, size)
        stretched = np.interp(places, np.arange(len(other)), other)
        falling = -np.arange(size, dtype=np.float64)
        guesses = (falling, -falling, stretched, changed)
        found[place] = [rank_agreement(own, guess) for guess in guesses]
    return found


def require_some(found: Floats) -> None:
    """Raise `StepFailed` where too few examples have an agreement to take a mean of."""
    known = int(np.isfinite(found).sum())
    if known < _FEWEST_EXAMPLES:
        raise StepFailed(
            f"attributions: of {len(found)} examples {known} have pieces that the untouched "
            f"checkpoint tells apart, and it takes {_FEWEST_EXAMPLES}; give more rows with three "
            f"words or more, or remove budget.min_attribution_agreement"
        )


def judge_agreement(
    found: Floats,
    uninformed: Floats,
    *,
    min_agreement: float,
    confidence: float,
    seed: int,
    explained: str,
    resamples: int = 9999,
) -> AttributionRecord:
    """Return what is proven about a mean agreement; both as `agreements` and `uninformed_...` give.

    Certified is an agreement whose one-sided lower bound reaches `min_agreement`, where the same
    rows refute all attributions that know nothing. Raises `StepFailed` for too few examples.
    """
    require_some(found)
    kept = np.isfinite(found)

    def proof_of(values: Floats) -> Certificate:
        return certify_mean(
            _METRIC,
            np.ones(len(values)),
            values,
            max_drop=1 - min_agreement,
            confidence=confidence,
            seed=seed,
            resamples=resamples,
        )

    proof = proof_of(found[kept])
    guesses = uninformed[kept]
    best = int(guesses.mean(axis=0).argmax())
    known = proof_of(guesses[:, best])
    verdict = proof.verdict
    if verdict == "certified" and known.verdict != "refuted":
        verdict = "inconclusive"
    return AttributionRecord(
        agreement=1 - proof.drop,
        # The example that the bootstrap adds may move a bound beyond what a correlation can be.
        lower_bound=max(-1.0, 1 - proof.upper_bound),
        upper_bound=min(1.0, 1 - proof.lower_bound),
        min_agreement=min_agreement,
        verdict=verdict,
        confidence=confidence,
        num_examples=int(kept.sum()),
        left_out=int(len(found) - kept.sum()),
        explained=explained,
        method=proof.method,
        needed_examples=proof.needed_examples,
        uninformed=UNINFORMED[best],
        uninformed_agreement=1 - known.drop,
        uninformed_most=min(1.0, 1 - known.lower_bound),
    )
