"""Multiple-choice knapsack with costs that are no multiple of anything, such as times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_STEPS = 20_000  # into which the budget is cut
_ROUNDING = 1e-12  # of a budget that is met exactly


def best_choices(costs: Sequence[Numbers], values: Sequence[Numbers], budget: float) -> list[int]:
    """Choose one option of each group, for the largest sum of values whose cost is in `budget`.

    `costs[i]` and `values[i]` have shape `(options of group i,)`; the first of equally good options
    wins. This is the multiple-choice knapsack, solved by dynamic programming over a grid: what an
    option costs above the cheapest of its group is rounded up to a 20,000th of what the budget
    leaves for that. So the budget always holds, and only choices that differ in cost by less than
    such a step for each group may be taken for each other. The budget is not touched in between:
    what is spent in one group is known to all others.

    Raises `ValueError` when the cheapest options together cost more than `budget`.
    Ref: Kellerer et al. 2004, Knapsack Problems, section 11.5.
    """
    least = sum(float(group.min()) for group in costs)
    room = budget - least
    if room < 0:
        raise ValueError(f"the cheapest options cost {least:g} together, above {budget:g}")
    # Rounding up may put a choice that fits as many steps too high as there are groups.
    size = _STEPS + len(costs) + 1
    best = np.zeros(size)  # the largest sum of values for each number of steps
    steps = [_in_steps(group - group.min(), room, size) for group in costs]
    chosen = []
    for group_steps, group_values in zip(steps, values, strict=True):
        best, choice = _add_group(best, group_steps, group_values)
        chosen.append(choice)
    for left in range(size - 1, _STEPS, -1):
        picks = _picks(left, steps, chosen)
        spent = sum(float(group[pick]) for group, pick in zip(costs, picks, strict=True))
        if spent <= budget + _ROUNDING * abs(budget):
            return picks
    return _picks(_STEPS, steps, chosen)


def _picks(
    left: int, steps: Sequence[NDArray[np.int64]], chosen: Sequence[NDArray[np.int64]]
) -> list[int]:
    """Return the options behind the best sum of values in `left` steps."""
    picks = []
    for group_steps, choice in zip(reversed(steps), reversed(chosen), strict=True):
        picks.append(int(choice[left]))
        left -= int(group_steps[picks[-1]])
    return picks[::-1]


def _in_steps(extra: Numbers, room: float, size: int) -> NDArray[np.int64]:
    """Return whole numbers of steps, `size` where an option does not fit."""
    if room == 0:
        return np.where(extra > 0, size, 0)
    return np.minimum(np.ceil(extra / room * _STEPS), size).astype(np.int64)


def _add_group(
    best: Numbers, steps: NDArray[np.int64], values: Numbers
) -> tuple[Numbers, NDArray[np.int64]]:
    """Return the sums with one more group, and its option behind each of them."""
    found = np.full(len(best), -np.inf)
    choice = np.zeros(len(best), dtype=np.int64)
    for option, (needed, value) in enumerate(zip(steps, values, strict=True)):
        if needed >= len(best):
            continue
        candidate = best[: len(best) - needed] + value
        is_better = candidate > found[needed:]
        found[needed:][is_better] = candidate[is_better]
        choice[needed:][is_better] = option
    return found, choice
