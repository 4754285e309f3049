"""From which probability on a label is predicted, where several labels can hold for one input.

One half is what a model was trained towards; a rare label is often found best from a lower one on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.predictions import Thresholds as Thresholds
from compressor.runtime.predictions import cuts_of as cuts_of
from compressor.setting_errors import did_you_mean
from compressor.tasks.metrics import Floats, ratio

USUAL = 0.5
CHOSEN: Literal["chosen"] = "chosen"
# One for every label, one for each by its name, or those that the original finds labels best with.
ThresholdWish = float | Mapping[str, float] | Literal["chosen"]

# Farther out a probability is 0 or 1 to nine digits, and no threshold between two is meant.
_MOST_LOGIT = 20.0


def thresholds_of(wish: float | Mapping[str, float], labels: Sequence[str]) -> Thresholds | None:
    """Return the threshold of each label; None where all are one half, as they are left out.

    A label that `wish` does not name keeps one half. Raises `ValueError` for a name that is none.

    >>> thresholds_of({"b": 0.3}, ("a", "b")), thresholds_of(0.5, ("a", "b"))
    ((0.5, 0.3), None)
    """
    if isinstance(wish, Mapping):
        for name in wish:
            if name not in labels:
                raise ValueError(
                    f"the checkpoint knows no label '{name}'"
                    f"{did_you_mean(name, labels, noun='labels')}"
                )
        found = tuple(float(wish.get(label, USUAL)) for label in labels)
    else:
        found = (float(wish),) * len(labels)
    return None if set(found) <= {USUAL} else found


def best_thresholds(logits: NDArray[np.float32], sets: NDArray[np.bool_]) -> Thresholds:
    """Return the threshold of each label with which its F1 is highest, both `(num_rows, labels)`.

    It lies halfway, in logits, between the scores that it tells apart; of several that are as good
    it is the one nearest to one half. A label that holds for no row, or for all, keeps one half.

    Ref: Lipton et al. 2014, arXiv:1402.1892, section 3.
    """
    return tuple(
        _best(logits[:, place].astype(np.float64), sets[:, place]) for place in range(sets.shape[1])
    )


def _best(logits: Floats, holds: NDArray[np.bool_]) -> float:
    if holds.all() or not holds.any():
        return USUAL
    scores = np.clip(logits, -_MOST_LOGIT, _MOST_LOGIT)
    levels = np.unique(scores)
    between = (levels[1:] + levels[:-1]) / 2
    # Below all scores too, and one half itself: with it no threshold is worse than before.
    cuts = np.concatenate([[0.0, levels[0] - 1.0], between])
    order = np.argsort(scores, kind="stable")
    above = np.append(np.cumsum(holds[order][::-1])[::-1], 0)  # that hold, from each place on
    first = np.searchsorted(scores[order], cuts, side="left")
    predicted = (len(scores) - first).astype(np.float64)
    f1 = ratio(2.0 * above[first], predicted + float(holds.sum()))
    best = np.flatnonzero(f1 == f1.max())
    cut = float(cuts[best[np.argmin(np.abs(cuts[best]))]])
    return USUAL if cut == 0 else 1 / (1 + math.exp(-cut))
