"""How many steps a training run has, and how learning rate and sparsity move over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from compressor.training.settings import TrainingSettings

_RANKINGS = 50


def total_steps(num_examples: int, settings: TrainingSettings) -> int:
    """Return how many optimizer steps `train` takes on a split of `num_examples`."""
    batches = math.ceil(num_examples / settings.batch_size)
    # 1.1 epochs of 100 batches are 110 steps, and in binary fractions a little more.
    steps = math.ceil(round(settings.epochs * batches, 6)) or 1
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


@dataclass(frozen=True)
class ScheduleByName:
    """A schedule of transformers by the name that its Trainer knows, and what it reads."""

    name: str
    settings: dict[str, float | str]


def named_schedule(
    settings: TrainingSettings, *, steps: int, warmup_steps: int
) -> ScheduleByName | None:
    """Return the schedule of transformers that `settings` ask for; None where it has none.

    Ref: restarts: Loshchilov & Hutter 2017, arXiv:1608.03983; the inverse root: Vaswani et al.
    2017, arXiv:1706.03762, eq. 3; warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395.
    """
    lowest = settings.final_lr_ratio
    match settings.schedule:
        case "linear":
            return ScheduleByName("linear", {})
        case "constant":
            return ScheduleByName("constant_with_warmup", {})
        case "cosine" if lowest == 0:
            return ScheduleByName("cosine", {})
        case "cosine":
            return ScheduleByName("cosine_with_min_lr", {"min_lr_rate": lowest})
        case "cosine_with_restarts":
            return ScheduleByName("cosine_with_restarts", {"num_cycles": settings.cycles})
        case "polynomial":
            end = lowest * settings.learning_rate
            return ScheduleByName("polynomial", {"lr_end": end, "power": settings.power})
        case "inverse_sqrt":
            # Left out, transformers takes 10,000 steps for a training without a warm-up.
            return ScheduleByName("inverse_sqrt", {"timescale": max(1, warmup_steps)})
        case "warmup_stable_decay":
            decay_steps = min(steps - warmup_steps, math.ceil(settings.decay_ratio * steps))
            return ScheduleByName(
                "warmup_stable_decay",
                {"num_decay_steps": decay_steps, "decay_type": "linear", "min_lr_ratio": lowest},
            )
        case _:
            return None


def decay_by_factor(
    settings: TrainingSettings, *, steps_per_epoch: int, warmup_steps: int
) -> Callable[[int], float]:
    """Return the learning rate of schedule step or exponential at a step, over the highest.

    Without a warm-up they are `StepLR` and `ExponentialLR` of PyTorch.
    """
    period = settings.decay_epochs * steps_per_epoch
    at_once = settings.schedule == "step"

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        periods = (step - warmup_steps) / period
        return settings.decay_factor ** (math.floor(periods + 1e-9) if at_once else periods)

    return factor


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
