"""How many steps a training run has, and how a setting moves over them.

Learning rates are the Trainer's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from compressor.training.settings import TrainingSettings

_RANKINGS = 50


def total_steps(num_examples: int, settings: TrainingSettings) -> int:
    """Return how many optimizer steps `train` takes on a split of `num_examples`."""
    batches = math.ceil(num_examples / settings.batch_size)
    # 1.1 epochs of 100 batches are 110 steps, and in binary fractions a little more.
    steps = math.ceil(round(settings.epochs * batches, 6)) or 1
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def cubic_sparsity(step: int, begin: int, end: int, initial: float, final: float) -> float:
    """Return the sparsity at `step`: fast at first, when many weights do not matter, then slower.

    It is `initial` up to `begin` and `final` from `end` on.

    Raises `ValueError` when `end` comes before `begin`.
    Ref: Zhu & Gupta 2017, arXiv:1710.01878, eq. 1.

    >>> cubic_sparsity(5, begin=0, end=10, initial=0.0, final=0.8)
    0.7000000000000001
    """
    if end < begin:
        raise ValueError(f"the schedule must not end before it begins, got {begin} to {end}")
    if step >= end:
        return final
    remaining = 1 - max(0, step - begin) / (end - begin)
    return final + (initial - final) * remaining**3


def gradual_pruning(
    prune_to: Callable[[float], None],
    hold: Callable[[], None],
    *,
    sparsity: float,
    ramp_ratio: float,
) -> Callable[[int, int], None]:
    """Return what to do after each of a training run's steps to reach `sparsity` little by little.

    The cubic ramp covers the first `ramp_ratio` of the steps. It takes at most 51 calls of
    `prune_to`, because ranking all weights costs time; `hold` is called after the other steps. The
    returned function takes the number of steps taken and of all steps.
    """

    def after_step(step: int, total: int) -> None:
        end = max(1, round(ramp_ratio * total))
        stride = math.ceil(end / _RANKINGS)
        if step == end or (step < end and step % stride == 0):
            prune_to(cubic_sparsity(step, begin=0, end=end, initial=0.0, final=sparsity))
        else:
            hold()

    return after_step
