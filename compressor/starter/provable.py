"""What so many rows can prove, asked of the certificate itself on made-up predictions.

A budget that the rows at hand cannot prove ends a run with "not certified" after all its work. So
before a budget is written, the untouched checkpoint's predictions are changed as passes usually
change them, and somewhat worse, and the certificate of that pair is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate import certify_drop, certify_scores, enough_examples
from compressor.measurements import Certificate, Score
from compressor.tasks import Guess, Metric, Task, Truth, find_metric

CONFIDENCE = 0.95
LUCK = 0.9  # nine runs in ten lose no more than is reckoned with
FINE_STEP, COARSE_STEP, COARSE_FROM = 0.0025, 0.005, 0.02
_RESAMPLES = 1999  # of a bootstrap; a certificate that is given takes more
_SEED = 0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class UsualCost:
    """What passes together usually change; shares, so that 0.01 is one point or 1% of the rows."""

    changed: float  # of the predictions
    lost: float  # of the score, net
    kind: Literal["half", "int8", "pruned"]

    def moved(self, metric: Metric) -> float:
        """Return how far the score falls, of one to which each unit contributes a number."""
        drop: float = getattr(metric.usual_drop, self.kind)
        return drop


# Measured on trained classifiers and encoders, and rounded up: int8 with one scale a token changes
# 0.5% of a MiniLM's predictions on SST-2, a pruning to half followed by int8 1.3% to 2.2% and loses
# 0.6 to 0.7 points (docs/results).
HALF_COST = UsualCost(0.003, 0.0005, "half")
INT8_COST = UsualCost(0.01, 0.002, "int8")
PRUNED_COST = UsualCost(0.03, 0.006, "pruned")


_PROBABILITIES = "probabilities"  # of classes, which a classifier's score keeps


@dataclass(frozen=True)
class Judged:
    """What the untouched checkpoint gives for some rows of the search split."""

    task: Task
    labels: tuple[str, ...]
    score: Score
    truth: Truth

    @property
    def best_guess(self) -> Guess:
        """Return the best of the models that know nothing, on the same rows."""
        guesses = self.task.guesses(self.score, self.truth, self.labels)
        return max(guesses, key=lambda guess: guess.score.value)


@dataclass(frozen=True)
class Prospect:
    """What a certificate would say after the usual passes and somewhat bad luck."""

    num_examples: int
    drop: float
    upper_bound: float
    guess_drop: float  # what is proven at least that a model which knows nothing loses
    needed: int | None  # examples that prove `max_drop`, with a chance of 80%; None where none do

    @property
    def budget(self) -> float:
        """Return the round number that would be proven."""
        return round_up(self.upper_bound)


def round_up(drop: float) -> float:
    """Return the next budget that people write: quarters of a point, from 2 points on halves.

    >>> round_up(0.0101), round_up(0.0125), round_up(0.0203), round_up(0.3334)
    (0.0125, 0.0125, 0.025, 0.335)
    """
    fine = math.ceil(drop / FINE_STEP - _ROUNDING) * FINE_STEP
    if fine > COARSE_FROM:
        fine = math.ceil(drop / COARSE_STEP - _ROUNDING) * COARSE_STEP
    return round(fine, 4)


def look_forward(
    judged: Judged, num_examples: int, cost: UsualCost, *, luck: float = LUCK, max_drop: float = 0.0
) -> Prospect:
    """Return what `num_examples` like those of `judged` would prove.

    `num_examples` are those that the metric counts: rows, of two texts each twice as many texts.
    With `luck` 0.5 as much is lost as usual, with 0.9 as nine runs in ten do not exceed.
    """
    if not find_metric(judged.score.metric).is_fine and judged.score.shares is None:
        return _of_predictions(judged, num_examples, cost, luck, max_drop)
    return _of_numbers(judged, num_examples, cost, luck, max_drop)


def _of_predictions(
    judged: Judged, num_examples: int, cost: UsualCost, luck: float, max_drop: float
) -> Prospect:
    score, labels = judged.score, judged.truth.labels
    places = np.arange(num_examples) * len(score.outcomes) // num_examples
    before = score.outcomes[places]
    by_agreement = find_metric(score.metric).bound == "flips" or labels is None
    truth = before if by_agreement or labels is None else labels[places]
    changed = int(stats.binom.ppf(luck, num_examples, cost.changed))
    lost = changed
    if not by_agreement:
        noise = float(stats.norm.ppf(luck)) * math.sqrt(num_examples * cost.changed)
        net = num_examples * cost.lost + noise
        lost = min(changed, math.ceil((changed + net) / 2))
    after = before.copy()
    order = np.random.default_rng(_SEED).permutation(num_examples)
    right, wrong = (order[(before == truth)[order] == is_right] for is_right in (True, False))
    after[right[:lost]] = _others(score, places[right[:lost]])
    after[wrong[: changed - lost]] = truth[wrong[: changed - lost]]
    given, found = (replace(score, outcomes=item, num_examples=num_examples)
                    for item in (before, after))  # fmt: skip
    right_ones = None if by_agreement else truth
    settings: Any = {
        "max_drop": max_drop,
        "confidence": CONFIDENCE,
        "seed": _SEED,
        "resamples": _RESAMPLES,
    }
    if _PROBABILITIES not in score.kept:  # outcomes are no classes, which could be drawn again
        known = certify_drop(score, judged.best_guess.score, labels, **settings)
        return _prospect(certify_drop(given, found, right_ones, **settings), known.lower_bound)
    guesses = judged.task.guesses(given, Truth((), right_ones), judged.labels)
    proof = certify_scores(given, found, right_ones, guesses=guesses, **settings)
    least = None if proof.uninformed is None else proof.uninformed.least_drop
    return _prospect(proof, 0.0 if least is None else least)


def _others(score: Score, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return another outcome of some examples: a class's is the second most probable one."""
    if _PROBABILITIES not in score.kept:
        return score.outcomes[places] + 1  # all that counts of others is that they differ
    order = np.argsort(score.kept[_PROBABILITIES][places], axis=1, kind="stable")
    return order[:, -2].astype(np.int64)


def _of_numbers(
    judged: Judged, num_examples: int, cost: UsualCost, luck: float, max_drop: float
) -> Prospect:
    """Return the same where each unit contributes numbers; guesses are judged on what is there.

    How models differ in what they lose stands for luck: three halves of the usual at 0.9.
    """
    score = judged.score
    metric = find_metric(score.metric)
    moved = cost.moved(metric) * (1.0 if luck <= 0.5 else 1.5)
    places = np.arange(num_examples) * score.num_examples // num_examples
    random = np.random.default_rng(_SEED)
    given = replace(
        score,
        num_examples=num_examples,
        shares=None if score.shares is None else score.shares[places],
        sums=None if score.sums is None else score.sums[places],
    )
    settings: Any = {
        "max_drop": max_drop,
        "confidence": CONFIDENCE,
        "seed": _SEED,
        "resamples": _RESAMPLES,
    }
    right = judged.truth.labels if judged.truth.grades is None else judged.truth.grades
    drawn = None if metric.bound != "correlation" or right is None else right[places]
    proof = certify_drop(given, _moved(given, metric, moved, random), drawn, **settings)
    # Of one vector for all and the like: as many units as were looked at will do.
    known = certify_drop(score, judged.best_guess.score, right, **settings)
    return _prospect(proof, known.lower_bound)


def _moved(score: Score, metric: Metric, moved: float, random: np.random.Generator) -> Score:
    """Return a score that fell by about `moved`, as passes make it fall."""
    if metric.bound == "sums":
        return _lost_units(score, metric, moved, random)
    assert score.shares is not None, "its metric is taken from them"
    size = score.num_examples
    if metric.bound == "correlation":
        noise = random.normal(0.0, moved, size)
        return replace(score, shares=np.clip(score.shares + noise, -1.0, 1.0))
    if metric.bound == "hits":
        return replace(score, shares=np.where(random.random(size) < moved, 0.0, score.shares))
    if metric.quantile is not None:  # of the exponential distribution, as the mean is
        moved /= -math.log(metric.quantile)
    fallen = np.minimum(random.exponential(moved, size), 1.0)
    return replace(score, shares=np.clip(score.shares - fallen, -1.0, 1.0))


def _lost_units(score: Score, metric: Metric, moved: float, random: np.random.Generator) -> Score:
    """Return a score whose fewest units, drawn at random, are lost so that it falls by `moved`."""
    assert score.sums is not None, "its metric is taken from them"
    assert metric.lost is not None
    assert metric.statistic is not None
    total = score.sums.sum(axis=0)
    order = random.permutation(score.num_examples)
    lost = metric.lost(score.sums, total)
    totals = total + np.cumsum((lost - score.sums)[order], axis=0)  # (num_units, num_sums)
    drops = metric.statistic(total) - metric.statistic(totals)
    count = 1 + int(np.argmax(drops >= moved)) if np.any(drops >= moved) else len(order)
    sums = score.sums.copy()
    sums[order[:count]] = lost[order[:count]]
    return replace(score, sums=sums)


def _prospect(proof: Certificate, guess_drop: float) -> Prospect:
    return Prospect(
        num_examples=proof.num_examples,
        drop=proof.drop,
        upper_bound=proof.upper_bound,
        guess_drop=guess_drop,
        needed=enough_examples(proof),
    )
