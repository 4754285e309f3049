"""The arithmetic of symmetric int8: scales, rounding, and matmuls that cannot overflow.

ONNX Runtime multiplies unsigned 8-bit activations by signed 8-bit weights. On x86 without VNNI the
instruction for that, `vpmaddubsw`, adds two neighbouring products in 16 bits and saturates: with
activations up to 255, a pair of weights of equal sign that sums to 129 or more can overflow, and
the result is silently wrong. The scales here keep every such pair at 128 or less, so the same file
gives the same integers on every CPU.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from compressor.errors import StepFailed

Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", np.float64, np.int64)

WEIGHT_MAX = 127
PAIR_MAX = 128  # 128 * 255 = 32640 fits into 16 bits (32767), 129 * 255 = 32895 does not

# Weights over a scale that are this near to integers are multiples of it; float32 products are
# nearer.
_NEAR = 1e-3
_ROWS_TO_REJECT = (2, 16)  # tell nearly every scale that does not fit, at little cost

_ROWS_AT_ONCE = 1 << 9  # of a table, which may take gigabytes; so many stay in a CPU's cache

# A scale below the smallest normal float32 loses digits, so that value / scale may pass 127.
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def saturation_free_scales(weight: Floats) -> NDArray[np.float32]:
    """Return one scale for each column so that no pair of products can overflow 16 bits.

    `weight` has shape `(K, N)`, the result `(N,)`. The pairs are rows 2i and 2i + 1, as the kernel
    reads them. A column's scale is the larger of max |w| / 127 and, over pairs of equal sign,
    max |w_2i + w_2i+1| / 127. Each rounding adds at most 1/2, so a rounded pair sums to at most
    127 + 1/2 + 1/2 = 128. Columns of zeros get scale 1.

    Raises `StepFailed` when a weight is not finite.
    """
    return _saturation_free_scales(finite(weight))


def column_scales(weight: Floats) -> NDArray[np.float32]:
    """Return one scale for each column of `weight`, shape `(K, N)`, safe on every x86 CPU.

    A column whose weights are already multiples of one step, -127..127 times and with pairs that
    cannot overflow, keeps that step: training left it there (`fake_quantize.py`), and any other
    would round a second time. All others get their `saturation_free_scales`.

    Raises `StepFailed` when a weight is not finite.
    """
    return _column_scales(finite(weight))


def quantize_columns(weight: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values `(K, N)` and scales `(N,)` of a weight matrix, safe on every x86 CPU.

    The values lie in -127..127 and `values * scales` is off by at most half a scale; where the
    weights are multiples of a scale already (`column_scales`), it is off by next to nothing.

    Raises `StepFailed` when a weight is not finite.
    Ref: Jacob et al. 2018, arXiv:1712.05877, for the scheme; the pair rule is this project's own.
    """
    exact = finite(weight)
    scales = _column_scales(exact)
    return _round(exact / scales), scales


def quantize_rows(table: Floats) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 values `(rows, width)` and scales `(rows,)` of a table that is only looked up.

    Nothing is multiplied in 8 bits here, so each row uses the whole range -127..127.

    Raises `StepFailed` when an entry is not finite.
    """
    values = np.empty(table.shape, np.int8)
    scales = np.empty(len(table), np.float32)
    for start in range(0, len(table), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        exact = finite(table[rows])
        scales[rows] = _scales(np.max(np.abs(exact), axis=1, initial=0.0))
        values[rows] = _round(np.divide(exact, scales[rows, None], out=exact))
    return values, scales


def pair_order(weight: Floats) -> NDArray[np.intp] | None:
    """Return an order of the rows of `weight`, shape `(K, N)`, in which columns get finer scales.

    `weight[order]` has large weights of equal sign in different pairs, so that the scale of a
    column is near max |w| / 127. Each row of the half with the largest weights, relative to their
    columns, is assigned one of the other half; the cost of a pair is by how much its sums pass the
    columns' largest weights. An odd row is left to itself at the end. None when the scales of the
    present order are as fine.

    Raises `StepFailed` when a weight is not finite.
    Ref: Crouse 2016, doi:10.1109/TAES.2016.140952, for the assignment.
    """
    exact = finite(weight)
    largest = np.max(np.abs(exact), axis=0, initial=0.0)
    relative = exact / np.where(largest == 0, 1.0, largest)  # (K, N), each column within -1..1
    ranked = np.argsort(-np.abs(relative).max(axis=1, initial=0.0), kind="stable")
    half = len(ranked) // 2
    strong, weak = ranked[:half], ranked[half : 2 * half]
    cost = _excess(relative[strong], relative[weak]) + _excess(relative[weak], relative[strong]).T
    rows, columns = linear_sum_assignment(cost)
    pairs = np.stack([strong[rows], weak[columns]], axis=1)  # (K // 2, 2)
    order: NDArray[np.intp] = np.concatenate([pairs.ravel(), ranked[2 * half :]])
    before, after = _column_scales(exact), _column_scales(exact[order])
    finer = np.square(after / before, dtype=np.float64).mean() < 1
    return order if finer else None


def max_pair_sum(values: NDArray[np.int8]) -> int:
    """Return the largest |q_2i + q_2i+1| over pairs of equal sign in any column of `(K, N)`.

    Up to `PAIR_MAX` no 16-bit sum of two products with unsigned 8-bit activations can overflow.
    """
    return int(np.max(pair_sums(values.astype(np.int64)), initial=0))


def _saturation_free_scales(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    largest = np.max(np.abs(exact), axis=0, initial=0.0)  # (N,)
    # A pair of opposite signs sums to less than the larger of the two, so it may take part.
    whole = exact[: len(exact) // 2 * 2]  # a row without a partner is its own sum
    sums = np.max(np.abs(whole[0::2] + whole[1::2]), axis=0, initial=0.0)  # (N,)
    return _scales(np.maximum(largest, sums))


def _column_scales(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    steps = _trained_scales(exact)
    return np.where(np.isnan(steps), _saturation_free_scales(exact), steps).astype(np.float32)


def _trained_scales(exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest pair-safe scale of each column, NaN where there is none, shape `(N,)`."""
    steps = np.full(exact.shape[1], np.nan)
    largest = np.max(np.abs(exact), axis=0, initial=0.0)  # (N,)
    pending = np.flatnonzero(largest > 0)
    for levels in range(1, WEIGHT_MAX + 1):
        chosen, step = pending, largest[pending] / levels
        for rows in (*_ROWS_TO_REJECT, len(exact)):
            fits = _are_multiples(exact[:rows, chosen], step)
            chosen, step = chosen[fits], step[fits]
        if len(chosen) == 0:
            continue
        integers = np.rint(exact[:, chosen] / step).astype(np.int64)
        is_safe = np.max(pair_sums(integers), axis=0, initial=0) <= PAIR_MAX
        steps[chosen[is_safe]] = step[is_safe]
        # A smaller scale of the same weights has larger integers, so it is not safe either.
        pending = np.setdiff1d(pending, chosen, assume_unique=True)
    return steps


def _are_multiples(exact: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.bool_]:
    quotients = exact / steps
    off = np.max(np.abs(quotients - np.rint(quotients)), axis=0, initial=0.0)
    fits: NDArray[np.bool_] = off < _NEAR
    return fits


def _excess(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return by how much pairs of rows pass 1, `(rows of first, rows of second)`.

    Summed over the columns where the first row is above 1/2: one of the two has to be.
    """
    found = np.empty((len(first), len(second)), np.float32)
    turned = np.ascontiguousarray(second.T)  # a column is read at once
    for index, row in enumerate(first):
        columns = np.flatnonzero(np.abs(row) > 0.5)
        sums = np.abs(row[columns, None] + turned[columns])  # opposite signs stay below 1
        found[index] = np.maximum(sums - 1, 0, out=sums).sum(axis=0)
    return found


def finite(weight: Floats) -> NDArray[np.float64]:
    """Return `weight` in float64; raises `StepFailed` when a number is not finite."""
    # In float64 the sum of two float32 neither rounds away its small part nor overflows.
    exact = weight.astype(np.float64)
    if not np.isfinite(exact).all():
        raise StepFailed("holds NaN or infinity, which no integer can stand for")
    return exact


def pair_sums(matrix: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return |w_2i + w_2i+1| of each pair of rows, 0 where signs differ, `(ceil(K / 2), N)`."""
    # (K, N) -> (ceil(K / 2), N); pairs of opposite sign cannot add up and count as 0.
    padded = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
    first, second = padded[0::2], padded[1::2]
    agree = np.sign(first) == np.sign(second)
    sums: NDArray[Scalar] = np.where(agree, np.abs(first + second), 0)
    return sums


def _scales(largest: NDArray[np.float64]) -> NDArray[np.float32]:
    scales = np.maximum(largest / WEIGHT_MAX, _SMALLEST_SCALE)
    return np.where(largest == 0, 1.0, scales).astype(np.float32)


def _round(quotients: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return the nearest integers within range; `quotients` are overwritten."""
    np.rint(quotients, out=quotients)
    return np.clip(quotients, -WEIGHT_MAX, WEIGHT_MAX, out=quotients).astype(np.int8)
