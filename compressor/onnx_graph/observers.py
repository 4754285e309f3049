"""Observers of activations during calibration: statistics whose size depends on no row count.

A histogram has a fixed number of bins and widens by merging neighbours, whose width is a power of
two. So every count lies where it would lie had the final width been known from the start, and
neither the order of the rows nor how they are divided into batches changes anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.errors import StepFailed

_BINS_A_SIDE = 8192  # at least half of them are in use: 16 or more for each of 256 levels
_SLICE = 1 << 18  # values that are counted at once
_FARTHEST_SHIFT = 62  # of a signed 64-bit index; then only its sign is left


class Histogram:
    """Counts of values in bins of equal width, the same number on both sides of zero."""

    def __init__(self, bins_a_side: int = _BINS_A_SIDE) -> None:
        self._side = bins_a_side
        self._exponent = np.finfo(np.float32).minexp  # all values are below 2 to this power
        self.counts: NDArray[np.int64] = np.zeros(2 * bins_a_side, np.int64)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Return the borders of the bins, shape `(bins + 1,)`, ascending; bins hold their left."""
        return np.arange(-self._side, self._side + 1, dtype=np.float64) * self._width

    @property
    def _width(self) -> float:
        return float(np.ldexp(1.0, self._exponent)) / self._side

    def update(self, values: NDArray[np.float32]) -> None:
        """Count finite `values` of any shape, widening the bins where they do not reach."""
        flat = values.reshape(-1)
        largest = np.max(np.abs(flat), initial=0.0)
        self._widen(int(np.frexp(np.float64(largest))[1]))
        for start in range(0, len(flat), _SLICE):
            part = flat[start : start + _SLICE].astype(np.float64)
            places = np.floor(part / self._width).astype(np.int64) + self._side
            self.counts += np.bincount(places, minlength=len(self.counts))

    def _widen(self, exponent: int) -> None:
        if (steps := exponent - self._exponent) <= 0:
            return
        offsets = np.arange(-self._side, self._side) >> min(steps, _FARTHEST_SHIFT)
        merged = np.zeros_like(self.counts)
        np.add.at(merged, offsets + self._side, self.counts)
        self.counts, self._exponent = merged, exponent


class ActivationStatistics:
    """Running facts about one activation tensor, whose last axis is its channels."""

    def __init__(self) -> None:
        self.lowest = np.inf
        self.highest = -np.inf
        self.num_tokens = 0
        self.squared_ranges = 0.0  # summed over tokens: the square of the largest magnitude
        self.histogram = Histogram()
        self.channel_largest: NDArray[np.float32] = np.zeros(0, np.float32)  # (K,), magnitudes

    def update(self, values: NDArray[np.float32]) -> None:
        """Take `values`, shape `(..., K)`, into account.

        Raises `StepFailed` when one is not finite.
        """
        tokens = values.reshape(-1, values.shape[-1])
        if not np.isfinite(tokens).all():
            raise StepFailed("hold NaN or infinity on the calibration rows")
        if not tokens.size:
            return
        self.lowest = min(self.lowest, float(tokens.min()))
        self.highest = max(self.highest, float(tokens.max()))
        self.num_tokens += len(tokens)
        self.histogram.update(tokens)
        magnitudes = np.abs(tokens)
        self.squared_ranges += float(np.square(magnitudes.max(axis=1), dtype=np.float64).sum())
        largest = magnitudes.max(axis=0)
        known = self.channel_largest if len(self.channel_largest) else np.zeros_like(largest)
        self.channel_largest = np.maximum(known, largest)


class ChannelsFirstStatistics(ActivationStatistics):
    """Running facts about one activation tensor whose second axis is its channels."""

    def update(self, values: NDArray[np.float32]) -> None:
        """Take `values`, shape `(N, C, ...)`, into account; each place of an image is a token.

        Raises `StepFailed` when one is not finite.
        """
        super().update(np.moveaxis(values, 1, -1))
