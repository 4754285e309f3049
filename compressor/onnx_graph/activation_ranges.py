"""Chooses the range of an activation that 8 bits should stand for, from calibration facts.

What lies outside is clipped to the nearer end; a narrower range gives finer steps to the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from compressor.errors import StepFailed
from compressor.onnx_graph.observers import ActivationStatistics, Histogram
from compressor.onnx_graph.quantized_activations import (
    ScaleAndZeroPoint,
    SignedScale,
    TokenScale,
    token_scale_after,
)

Floats = NDArray[np.float64]
Method = Literal["minmax", "percentile", "mse", "entropy"]
Fixed = TypeVar("Fixed", ScaleAndZeroPoint, SignedScale, ScaleAndZeroPoint | SignedScale)

_LEVELS = 256
_SIGNED_MAX = 127
_CANDIDATES = 100  # for one end of the range
_SWEEPS = 3  # over both ends, one after the other
_NARROWEST = 0.02  # of the full range, that a search looks at
_AS_FINE = 4.0  # times the squared error of one scale for each token


def static_scale(
    statistics: ActivationStatistics, method: Method, *, percentile: float = 99.99
) -> ScaleAndZeroPoint:
    """Return scale and zero point of an activation that was observed at least once.

    `minmax` covers all that was seen. `percentile` cuts the same share off both ends, so that this
    percentage stays inside. `mse` takes the range with the smallest squared error. `entropy` takes
    the one whose distribution loses least information. The range always includes 0.

    Raises `StepFailed` when nothing was observed.
    Ref: Wu et al. 2020, arXiv:2004.09602, for percentiles and entropy.
    """
    low, high = _range_with_zero(statistics, method, percentile)
    if method == "mse":
        low, high = least_squares_range(statistics.histogram, low, high)
    return scale_of_range(low, high)


def signed_scale(
    statistics: ActivationStatistics, method: Method, *, percentile: float = 99.99
) -> float:
    """Return the signed scale of an activation: `value = scale * integer`, -128..127.

    The methods are those of `static_scale`, over ranges that reach as far on both sides of 0. An
    activation that was 0 throughout gets scale 1.

    Raises `StepFailed` when nothing was observed.
    """
    low, high = _range_with_zero(statistics, method, percentile)
    farthest = max(-low, high)
    if farthest == 0:
        return 1.0
    if method == "mse":
        farthest = _least_squares_end(statistics.histogram, low, high)
    return farthest / _SIGNED_MAX


def _range_with_zero(
    statistics: ActivationStatistics, method: Method, percentile: float
) -> tuple[float, float]:
    """Return the range that `method` cuts; `mse`, which needs a scale, still gets the whole one."""
    if statistics.num_tokens == 0:
        raise StepFailed("were not observed on any calibration row")
    low, high = min(statistics.lowest, 0.0), max(statistics.highest, 0.0)
    if method == "percentile":
        return percentile_range(statistics.histogram, low, high, percentile)
    if method == "entropy":
        return entropy_range(statistics.histogram, low, high)
    return low, high


def finely_rounded(
    model: onnx.ModelProto,
    statistics: Mapping[str, ActivationStatistics],
    scales: Mapping[str, Fixed],
) -> dict[str, Fixed]:
    """Return those of `scales` that lose little against one scale for each token.

    Little is at most four times the mean squared error, or twice the error; that of a fixed
    scale includes what it clips. `model` is the float graph whose activations were observed.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    return {
        name: static
        for name, static in scales.items()
        if _static_error(statistics[name], static)
        <= _AS_FINE * _token_error(statistics[name], token_scale_after(producers.get(name)))
    }


def _static_error(
    statistics: ActivationStatistics, static: ScaleAndZeroPoint | SignedScale
) -> float:
    """Return the mean squared error of a fixed scale over what was observed."""
    if isinstance(static, SignedScale):
        static = _as_unsigned(static.scale)
    values, counts = _occupied(statistics.histogram, statistics.lowest, statistics.highest)
    return _squared_error(values, counts, static) / float(counts.sum())


def _token_error(statistics: ActivationStatistics, token_scale: TokenScale) -> float:
    """Return the mean squared error of rounding with one scale for each token, as a prediction."""
    squared = max(statistics.squared_ranges / statistics.num_tokens, token_scale.smallest_range**2)
    return squared / token_scale.levels**2 / 12  # of a uniform distribution one step wide


def scale_of_range(low: float, high: float) -> ScaleAndZeroPoint:
    """Return scale and zero point of `low <= 0 <= high`; a range of nothing but 0 gets scale 1."""
    step = (high - low) / (_LEVELS - 1)
    if step == 0:
        return ScaleAndZeroPoint(scale=1.0, zero_point=0)
    step = max(step, float(np.finfo(np.float32).tiny))
    return ScaleAndZeroPoint(
        float(np.float32(step)), int(np.clip(np.rint(-low / step), 0, _LEVELS - 1))
    )


def percentile_range(
    histogram: Histogram, low: float, high: float, percentile: float
) -> tuple[float, float]:
    """Return the range that holds `percentile` of the values, as much cut off on either side."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    outside = (1 - percentile / 100) / 2
    edges = histogram.edges
    first = edges[np.searchsorted(share, outside, side="right")]
    last = edges[np.searchsorted(share, 1 - outside, side="left") + 1]
    return max(low, min(first, 0.0)), min(high, max(last, 0.0))


def least_squares_range(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """Return the range with the smallest mean squared error of rounding and clipping together.

    Each end is searched in turn while the other stands still.
    """
    values, counts = _occupied(histogram, low, high)
    shares = np.linspace(_NARROWEST, 1, _CANDIDATES)
    best_low, best_high = low, high

    def error(first: float, last: float) -> float:
        return _squared_error(values, counts, scale_of_range(first, last))

    for _ in range(_SWEEPS):
        if high > 0:
            errors = [error(best_low, high * share) for share in shares]
            best_high = high * float(shares[np.argmin(errors)])
        if low < 0:
            errors = [error(low * share, best_high) for share in shares]
            best_low = low * float(shares[np.argmin(errors)])
    return best_low, best_high


def _least_squares_end(histogram: Histogram, low: float, high: float) -> float:
    """Return the end of the symmetric range with the smallest mean squared error."""
    values, counts = _occupied(histogram, low, high)
    ends = max(-low, high) * np.linspace(_NARROWEST, 1, _CANDIDATES)
    scales = [_as_unsigned(float(end) / _SIGNED_MAX) for end in ends]
    return float(ends[np.argmin([_squared_error(values, counts, static) for static in scales])])


def _as_unsigned(scale: float) -> ScaleAndZeroPoint:
    """Return signed integers with zero point 0 as unsigned ones with the zero point between."""
    return ScaleAndZeroPoint(scale, _SIGNED_MAX + 1)


def entropy_range(histogram: Histogram, low: float, high: float) -> tuple[float, float]:
    """Return the range, symmetric but for `low` and `high`, that loses least information.

    For each range, the distribution with everything outside moved to its ends is compared with the
    same distribution in 256 levels (Kullback-Leibler divergence, as in NVIDIA's 8-bit inference
    with TensorRT, Migacz 2017).
    """
    farthest = max(-low, high)
    best, best_end = np.inf, farthest
    centres, counts = _centres(histogram), histogram.counts
    for end in farthest * np.linspace(_NARROWEST, 1, _CANDIDATES):
        inside = (centres >= max(low, -end)) & (centres <= min(high, end))
        if np.count_nonzero(inside) < _LEVELS:
            continue
        divergence = _divergence(centres, counts, inside)
        if divergence < best:
            best, best_end = divergence, float(end)
    return max(low, -best_end), min(high, best_end)


def _squared_error(values: Floats, counts: NDArray[np.int64], static: ScaleAndZeroPoint) -> float:
    """Return the squared error of rounding, summed over `counts` of each of `values`."""
    integers = np.clip(np.rint(values / static.scale) + static.zero_point, 0, _LEVELS - 1)
    return float(np.square((integers - static.zero_point) * static.scale - values) @ counts)


def _divergence(centres: Floats, counts: NDArray[np.int64], inside: NDArray[np.bool_]) -> float:
    """Return KL(clipped distribution, the same in 256 levels), in nats."""
    kept = counts[inside].astype(np.float64)
    clipped = kept.copy()
    first, last = centres[inside][[0, -1]]
    clipped[0] += counts[centres < first].sum()
    clipped[-1] += counts[centres > last].sum()
    starts = np.linspace(0, len(kept), _LEVELS, endpoint=False).astype(np.int64)
    # A level's mass is spread over those of its bins that hold anything.
    filled = np.maximum(np.add.reduceat((kept > 0).astype(np.float64), starts), 1)
    spread = np.repeat(
        np.add.reduceat(kept, starts) / filled, np.diff(np.append(starts, len(kept)))
    )
    coarse = np.where(kept > 0, spread, 0.0)
    if not coarse.any():
        return np.inf
    p, q = clipped / clipped.sum(), coarse / coarse.sum()
    # Where only clipped mass lies, the coarse distribution has none: a small one keeps it finite.
    where = p > 0
    return float(np.sum(p[where] * np.log(p[where] / np.maximum(q[where], 1e-12))))


def _centres(histogram: Histogram) -> Floats:
    edges = histogram.edges
    return (edges[:-1] + edges[1:]) / 2


def _occupied(histogram: Histogram, low: float, high: float) -> tuple[Floats, NDArray[np.int64]]:
    """Return the centres of bins that hold anything, within what was seen, and their counts."""
    held = histogram.counts > 0
    return np.clip(_centres(histogram)[held], low, high), histogram.counts[held]
