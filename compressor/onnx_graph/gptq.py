"""GPTQ: rounds a weight matrix so that its outputs change least, not its weights.

Rows are rounded one after the other, and what a rounding adds to the outputs is taken back, as far
as the inputs are correlated, by the rows that are still free. All that is needed of the inputs is
their Gram matrix, so memory does not grow with the rows that it is summed over.

Ref: Frantar et al. 2022, arXiv:2210.17323 (GPTQ); Nagel et al. 2019, arXiv:1906.04721, section 4.2,
for the correction of biases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from compressor.errors import StepFailed
from compressor.onnx_graph.affine import PAIR_MAX, WEIGHT_MAX, column_scales
from compressor.onnx_graph.block_weights import Blocks, quantize_blocks

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_DAMPING = 0.01  # of the mean square of an input, added to each (as in the paper's code)
_ROWS_AT_ONCE = 128  # whose effect on later rows is collected before it is applied


class ActivationMoments:
    """Running sums of the inputs of a matmul: `gram` is the sum of their outer products."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.gram: Doubles = np.zeros((0, 0))  # (K, K)
        self.total: Doubles = np.zeros(0)  # (K,)

    def update(self, values: Floats) -> None:
        """Take `values`, shape `(..., K)`, into account.

        Raises `StepFailed` when one is not finite.
        """
        tokens = values.reshape(-1, values.shape[-1])
        if not np.isfinite(tokens).all():
            raise StepFailed("hold NaN or infinity on the calibration rows")
        if not len(self.total):
            self.gram = np.zeros((tokens.shape[1], tokens.shape[1]))
            self.total = np.zeros(tokens.shape[1])
        self.num_tokens += len(tokens)
        self.gram += tokens.T @ tokens
        self.total += tokens.sum(axis=0, dtype=np.float64)

    def __add__(self, other: ActivationMoments) -> ActivationMoments:
        """Return the moments of both inputs together, for a weight that multiplies several."""
        both = ActivationMoments()
        both.num_tokens = self.num_tokens + other.num_tokens
        both.gram, both.total = self.gram + other.gram, self.total + other.total
        return both

    @property
    def mean(self) -> Doubles:
        """Return the mean input, shape `(K,)`."""
        return self.total / max(1, self.num_tokens)


def round_columns(weight: Floats, gram: Doubles) -> Floats:
    """Return `weight`, shape `(K, N)`, as multiples of its columns' scales, safe on every x86 CPU.

    The scales are those of `affine.column_scales`, so `quantize_columns` stores the very integers
    chosen here; no pair of rows 2i and 2i + 1 sums to more than 128. `gram` is that of the inputs,
    `(K, K)`.

    Raises `StepFailed` when a weight is not finite.
    """
    scales = column_scales(weight)
    spread = np.repeat(scales[None], len(weight), axis=0)
    integers = _rounded(weight, gram, spread, WEIGHT_MAX, pairs=True)
    found: Floats = integers.astype(np.float32) * scales
    return found


def round_blocks(weight: Floats, gram: Doubles, *, bits: int, block_size: int) -> Blocks:
    """Return `weight`, shape `(K, N)`, in blocks: the scales of `quantize_blocks`, other integers.

    `gram` is that of the inputs, `(K, K)`. Rows of the result are columns of `weight`.

    Raises `StepFailed` when a weight is not finite.
    """
    nearest = quantize_blocks(weight.T, bits=bits, block_size=block_size, float16_scales=False)
    scales = nearest.scales.astype(np.float32)
    spread = np.repeat(scales, block_size, axis=1)[:, : len(weight)].T  # (K, N)
    integers = _rounded(weight, gram, spread, (1 << (bits - 1)) - 1, pairs=False)
    return Blocks(integers.T.astype(np.int8), nearest.scales, bits, block_size)


def matmul_error(weight: Floats, rounded: Floats, moments: ActivationMoments) -> float:
    """Return the root mean square of what rounding changes in the outputs, over `moments`."""
    lost = (weight - rounded).astype(np.float64)
    total = float(np.einsum("kn,kn->", lost, moments.gram @ lost))
    return float(np.sqrt(max(0.0, total) / max(1, moments.num_tokens * weight.shape[1])))


def bias_correction(weight: Floats, rounded: Floats, moments: ActivationMoments) -> Floats:
    """Return what to add to the bias, `(N,)`, so that outputs keep their mean.

    Ref: Nagel et al. 2019, arXiv:1906.04721, eq. 17.
    """
    lost = (weight - rounded).astype(np.float64)
    found: Floats = (moments.mean @ lost).astype(np.float32)
    return found


def _rounded(
    weight: Floats, gram: Doubles, scales: Floats, highest: int, *, pairs: bool
) -> Doubles:
    """Return integers of `weight`, `(K, N)`, rounded in the order of the largest inputs.

    They lie in `-highest - 1 .. highest`, and within what pairs allow in `-highest .. highest`.
    """
    order = np.argsort(-np.diag(gram), kind="stable")
    feedback = _feedback(gram[np.ix_(order, order)])  # (K, K), upper triangular
    left = weight[order].astype(np.float64)
    steps = scales[order].astype(np.float64)
    integers = np.zeros_like(left)
    place = np.argsort(order)  # where a row of the matrix lies in the order
    for start in range(0, len(left), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(left))
        errors = np.zeros((stop - start, left.shape[1]))
        for row in range(start, stop):
            low, high = float(-highest - (not pairs)), float(highest)
            limits = _pair_limits(integers, place, order[row], row) if pairs else (low, high)
            integers[row] = np.clip(np.rint(left[row] / steps[row]), *limits)
            error = (left[row] - integers[row] * steps[row]) / feedback[row, row]
            left[row + 1 : stop] -= np.outer(feedback[row, row + 1 : stop], error)
            errors[row - start] = error
        left[stop:] -= feedback[start:stop, stop:].T @ errors
    return integers[place]


def _pair_limits(
    integers: Doubles, place: NDArray[np.intp], row: int, position: int
) -> tuple[Doubles | float, Doubles | float]:
    """Return the lowest and highest integers of a row, `(N,)`, beside those of its neighbour."""
    neighbour = row ^ 1
    if neighbour >= len(place) or place[neighbour] > position:
        return float(-WEIGHT_MAX), float(WEIGHT_MAX)
    other = integers[place[neighbour]]
    low = np.where(other < 0, -PAIR_MAX - other, -PAIR_MAX)
    high = np.where(other > 0, PAIR_MAX - other, PAIR_MAX)
    return np.maximum(low, -WEIGHT_MAX), np.minimum(high, WEIGHT_MAX)


def _feedback(gram: Doubles) -> Doubles:
    """Return the upper Cholesky factor of the inverse of the damped `gram`.

    Its row i says how much of the error of row i each later row takes back. Inputs that are always
    zero are left to themselves.
    """
    mean = float(np.mean(np.diag(gram)))
    damped = gram + np.eye(len(gram)) * (_DAMPING * mean if mean > 0 else 1.0)
    # The lower factor of the reversed matrix is, reversed, an upper one: A = R R', and the inverse
    # of A is M' M with M the inverse of R.
    reversed_factor = cholesky(damped[::-1, ::-1], lower=True)
    upper = reversed_factor[::-1, ::-1]  # damped = upper @ upper.T
    inverse: Doubles = solve_triangular(upper, np.eye(len(gram)), lower=False)
    return inverse
