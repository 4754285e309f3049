"""The arithmetic of integers in blocks: neighbours in a row share a scale, chosen by its error.

With four bits there are sixteen levels, and a scale that reaches the largest weight of a block
spends them on a range that few weights use. The scale with the least squared error is smaller for
most blocks. It also has a sign: the range is -8..7, and the largest weight gets the side that is
one step longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.errors import StepFailed
from compressor.onnx_graph.packed_weights import Bytes, pack

Floats = NDArray[np.float32]

BLOCK_SIZES = (16, 32, 64, 128, 256)  # ONNX Runtime wants powers of two, from 16 on

# Parts of the scale that just reaches the largest weight of a block.
_FRACTIONS = np.linspace(0.6, 1.2, 13, dtype=np.float32)
# The same of a block of multiples of one scale in four bits, whose largest integer is 1 to 7:
# with these the scale is found again, as training left it (`fake_quantize.py`).
_TRAINED = tuple(np.float32(8 / largest) for largest in range(1, 8))
_ROWS_AT_ONCE = 2048  # so that the memory for the search does not grow with a table
_SMALLEST_FLOAT16 = float(np.finfo(np.float16).tiny)


@dataclass(frozen=True)
class Blocks:
    """`values` times `scales`: `(rows, width)` signed integers, `(rows, blocks)` floats.

    `values` lie in `-2 ** (bits - 1) .. 2 ** (bits - 1) - 1`. Scales may be negative, and are
    float16 where that has their digits, float32 elsewhere.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float16] | NDArray[np.float32]
    bits: int
    block_size: int

    def packed(self) -> Bytes:
        """Return the values as ONNX Runtime reads them, `(rows, ceil(width * bits / 8))`.

        The middle of the unsigned range stands for 0, which is what both operators take where no
        zero points are given.
        """
        shifted = self.values.astype(np.int16) + (1 << (self.bits - 1))
        return pack(shifted.astype(np.uint8), self.bits)

    def packed_in_blocks(self) -> Bytes:
        """Return the same for matmuls, `(rows, blocks, block_size * bits / 8)`.

        The last block of a row is filled up with zeros.
        """
        missing = -self.values.shape[1] % self.block_size
        filled = np.pad(self.values, ((0, 0), (0, missing)))
        whole = Blocks(filled, self.scales, self.bits, self.block_size).packed()
        return whole.reshape(len(whole), self.scales.shape[1], -1)

    def restored(self) -> Floats:
        """Return what the integers stand for, `(rows, width)`."""
        spread = np.repeat(self.scales.astype(np.float32), self.block_size, axis=1)
        found: Floats = self.values * spread[:, : self.values.shape[1]]
        return found


def quantize_blocks(
    matrix: Floats, *, bits: int, block_size: int, float16_scales: bool = True
) -> Blocks:
    """Return the rows of `matrix`, shape `(rows, width)`, as integers in blocks of `block_size`.

    The last block of a row is shorter where `block_size` does not divide the width. A block of
    zeros has scale 1. With `float16_scales`, scales are float16 where its range is enough.

    Raises `StepFailed` when an entry is not finite.
    """
    if not np.isfinite(matrix).all():
        raise StepFailed("holds NaN or infinity, which no integer can stand for")
    parts = [_chosen_scales(part, bits, block_size) for part in _chunks(matrix)]
    exact = np.concatenate(parts)
    scales = _storable(exact) if float16_scales else exact
    values = [
        _rounded(_blocks(part, block_size), scales[start : start + len(part)], bits)
        .reshape(len(part), -1)[:, : matrix.shape[1]]
        .astype(np.int8)
        for start, part in zip(range(0, len(matrix), _ROWS_AT_ONCE), _chunks(matrix), strict=True)
    ]
    return Blocks(np.concatenate(values), scales, bits, block_size)


def relative_error(matrix: Floats, restored: Floats) -> float:
    """Return the root mean square of what `restored` lost, over that of `matrix`."""
    total = float(np.sum(np.square(matrix, dtype=np.float64)))
    lost = float(np.sum(np.square(matrix - restored, dtype=np.float64)))
    return float(np.sqrt(lost / total)) if total else 0.0


def _chosen_scales(part: Floats, bits: int, block_size: int) -> Floats:
    """Return the scale of each block with the least squared error, `(rows, blocks)`."""
    blocks = _blocks(part, block_size)
    place = np.abs(blocks).argmax(axis=2, keepdims=True)
    largest = np.take_along_axis(blocks, place, axis=2)[..., 0]  # with its sign
    reaching = np.where(largest == 0, np.float32(1), largest / np.float32(1 << (bits - 1)))
    chosen = reaching.astype(np.float32)
    least = np.full(reaching.shape, np.inf)
    fractions = (*-_FRACTIONS, *_FRACTIONS, *(_TRAINED if bits == 4 else ()))
    for scale in (fraction * reaching for fraction in fractions):
        lost = blocks - _rounded(blocks, scale, bits) * scale[..., None]
        error = np.einsum("rbi,rbi->rb", lost, lost)
        is_better = error < least
        least = np.where(is_better, error, least)
        chosen = np.where(is_better, scale, chosen)
    found: Floats = np.where(largest == 0, np.float32(1), chosen)
    return found


def _storable(scales: Floats) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return `scales` as float16, unless some are beyond its range."""
    with np.errstate(over="ignore"):
        short = scales.astype(np.float16)
    fits = (
        np.isfinite(short).all() and float(np.min(np.abs(scales), initial=1.0)) >= _SMALLEST_FLOAT16
    )
    return short if fits else scales


def _rounded(
    blocks: Floats, scales: NDArray[np.float16] | NDArray[np.float32], bits: int
) -> Floats:
    lowest, highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    quotients = blocks / scales.astype(np.float32)[..., None]
    found: Floats = np.clip(np.rint(quotients), lowest, highest)
    return found


def _blocks(part: Floats, block_size: int) -> Floats:
    """Return `(rows, blocks, block_size)`, the last block filled up with zeros."""
    rows, width = part.shape
    padded = np.pad(part, ((0, 0), (0, -width % block_size)))
    return padded.reshape(rows, -1, block_size)


def _chunks(matrix: Floats) -> Iterator[Floats]:
    for start in range(0, len(matrix), _ROWS_AT_ONCE):
        yield matrix[start : start + _ROWS_AT_ONCE]
