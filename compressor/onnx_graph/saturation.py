"""Saturation of 8-bit matmuls on x86 CPUs without VNNI, computed in NumPy.

ONNX Runtime's kernel for unsigned activations and signed weights multiplies and adds with
`vpmaddubsw` there: products 2i and 2i + 1 along the inner axis are added in 16 bits, and a sum
beyond -32768..32767 becomes the nearer end. The sums of pairs are then added in 32 bits, exactly.
With VNNI or AMX every sum is exact, as it is for unsigned weights and for signed activations, whose
kernels widen to 16 bits before they multiply. Measured: the pairs are the same for any number of
rows, and the last of an odd number of products stands alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -32768, 32767  # of 16 bits
_LARGEST_ACTIVATION = 255  # of unsigned 8 bits

# From 129 on, 255 times the sum of two weights of equal sign leaves 16 bits: 32895.
_SAFE_SUM = HIGHEST // _LARGEST_ACTIVATION


@dataclass(frozen=True)
class PairRisk:
    """The pairs of a weight matrix `(K, N)` whose 16-bit sum some activations take out of range."""

    num_pairs: int  # of all columns
    risky_pairs: int
    risky_columns: int
    worst_sum: int  # the largest |q_2i + q_2i+1| of equal sign; 255 times that has to fit

    @property
    def can_saturate(self) -> bool:
        """Whether any pair can leave the range."""
        return self.risky_pairs > 0


def pair_risk(weight: NDArray[np.int8]) -> PairRisk:
    """Count the pairs of signed weights, shape `(K, N)`, that unsigned activations can saturate.

    Weights of opposite sign cannot add up: one product alone is at most 255 * 128 = 32640.
    """
    risky, sums = _risky_pairs(weight)
    return PairRisk(
        num_pairs=risky.size,
        risky_pairs=int(np.count_nonzero(risky)),
        risky_columns=int(np.count_nonzero(risky.any(axis=0))),
        worst_sum=int(np.max(sums, initial=0)),
    )


def exact_matmul(
    activations: NDArray[np.uint8], weight: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Return the matmul of `(M, K)` and `(K, N)` without any overflow."""
    # float64 holds integers up to 2^53 exactly, and its products are much faster than integer ones.
    product: NDArray[np.float64] = activations.astype(np.float64) @ weight.astype(np.float64)
    return product.astype(np.int64)


def saturating_matmul(
    activations: NDArray[np.uint8], weight: NDArray[np.int8]
) -> NDArray[np.int64]:
    """Return the matmul of `(M, K)` and `(K, N)` as an x86 CPU without VNNI computes it."""
    product = exact_matmul(activations, weight)
    risky, _ = _risky_pairs(weight)
    columns_of, values = weight.astype(np.int32), activations.astype(np.int32)
    for pair in np.flatnonzero(risky.any(axis=1)):
        columns = np.flatnonzero(risky[pair])
        rows = slice(2 * pair, 2 * pair + 2)
        sums = values[:, rows] @ columns_of[rows, columns]  # (M, columns)
        product[:, columns] -= sums - np.clip(sums, LOWEST, HIGHEST)
    return product


def _risky_pairs(weight: NDArray[np.int8]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which pairs can leave 16 bits, and |q_2i + q_2i+1|, both `(ceil(K / 2), N)`."""
    padded = np.pad(weight.astype(np.int64), ((0, len(weight) % 2), (0, 0)))
    first, second = padded[0::2], padded[1::2]
    sums = np.where(first * second > 0, np.abs(first + second), 0)
    return sums > _SAFE_SUM, sums
