"""Which of everything that was tried nobody beats: cheaper and at least as good does not exist."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points (cost, score) that no other one dominates, by cost.

    A point is dominated by one that costs no more and scores no less and is better in one of the
    two. Of equal points the first stands for all.

    >>> pareto_front([(90.0, 0.89), (23.0, 0.88), (23.0, 0.85), (30.0, 0.87), (17.0, 0.5)])
    [4, 1, 0]
    """
    front: list[int] = []
    best = float("-inf")
    for index in sorted(range(len(points)), key=lambda item: (points[item][0], -points[item][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front
