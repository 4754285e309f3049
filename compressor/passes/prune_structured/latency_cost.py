"""What sub-layers of each size take on one machine, as a table that a budget search can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import isotonic_regression


@dataclass(frozen=True)
class LatencyTable:
    """What a sub-layer takes by its number of units: `attention[heads]`, `feed_forward[neurons]`.

    In shares of a whole layer, which takes 1, or another unit of time. Both begin with what is left
    of a sub-layer without units, and never fall.
    """

    attention: tuple[float, ...]
    feed_forward: tuple[float, ...]


@dataclass(frozen=True)
class TableCost:
    """What an encoder takes by the table of each layer, which has so many `heads` and `neurons`."""

    tables: tuple[LatencyTable, ...]
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @property
    def total(self) -> float:
        """Return what the whole encoder takes."""
        return sum(map(self.of_layer, range(len(self.tables)), self.heads, self.neurons))

    def of_layer(self, layer: int, heads: int, neurons: int) -> float:
        """Return what a layer, counted from 0, takes with as many units."""
        table = self.tables[layer]
        return table.attention[heads] + table.feed_forward[neurons]


def latency_table(
    attention: Mapping[int, float], feed_forward: Mapping[int, float]
) -> LatencyTable:
    """Return the table through measured points, each a number of units and what they take.

    More units never take less time, so a point that says otherwise is noise: points are replaced by
    the closest (in least squares) that never fall, and lines drawn between them. Each mapping
    begins with 0 units and ends with the largest number that the table is for.

    Raises `ValueError` when the points of a mapping do not begin with 0, or one is not a time.
    """
    return LatencyTable(
        _through(attention, "heads"),
        _through(feed_forward, "neurons"),
    )


def measured_sizes(largest: int, block: int, max_points: int) -> tuple[int, ...]:
    """Return numbers of units to measure: 0, `largest`, and multiples of `block` between them.

    All of them where they are at most `max_points`, otherwise evenly spread ones.

    >>> measured_sizes(64, 16, 9)
    (0, 16, 32, 48, 64)
    """
    blocks = list(range(0, largest, block))
    if len(blocks) >= max_points:
        spread = np.linspace(0, len(blocks) - 1, max_points - 1).round().astype(int)
        blocks = [blocks[index] for index in spread]
    return (*blocks, largest) if largest > 0 else (0,)


def _through(points: Mapping[int, float], unit: str) -> tuple[float, ...]:
    counts = sorted(points)
    times = [points[count] for count in counts]
    if not counts or counts[0] != 0 or not _are_times(times):
        raise ValueError(
            f"a latency table needs times of 0 {unit} and more, finite and not negative, got "
            f"{dict(points)}"
        )
    rising = isotonic_regression(np.array(times, dtype=np.float64))
    every: list[float] = np.interp(np.arange(counts[-1] + 1), counts, rising).tolist()
    return tuple(every)


def _are_times(times: Sequence[float]) -> bool:
    return bool(np.isfinite(times).all() and min(times) >= 0)
