from __future__ import annotations

import numpy as np
import pytest

from compressor.onnx_graph.block_weights import quantize_blocks, relative_error

RANDOM = np.random.default_rng(2)


def reaching_largest(matrix: np.ndarray, block_size: int) -> np.ndarray:
    """Return int4 of the common kind: -7..7, the largest of each block at its end."""
    blocks = matrix.reshape(len(matrix), -1, block_size)
    scales = np.abs(blocks).max(axis=2, keepdims=True) / 7
    return (np.rint(blocks / scales) * scales).reshape(matrix.shape)


def test_weights_that_lie_on_a_grid_come_back_exactly():
    matrix = np.zeros((1, 16), np.float32)
    matrix[0, :4] = [-4.0, 3.5, 0.5, -1.0]  # -8, 7, 1 and -2 halves
    blocks = quantize_blocks(matrix, bits=4, block_size=16)
    np.testing.assert_array_equal(blocks.restored(), matrix)


def test_the_largest_weight_takes_the_longer_side_whatever_its_sign():
    matrix = np.zeros((1, 16), np.float32)
    matrix[0, :2] = [4.0, -3.5]
    blocks = quantize_blocks(matrix, bits=4, block_size=16)
    assert blocks.scales[0, 0] == -0.5
    assert blocks.values[0, :2].tolist() == [-8, 7]


def test_each_block_has_its_own_scale():
    matrix = np.concatenate([np.full((2, 16), 8), np.full((2, 16), 0.01)], axis=1)
    blocks = quantize_blocks(matrix.astype(np.float32), bits=4, block_size=16)
    np.testing.assert_allclose(blocks.restored(), matrix, rtol=1e-3)  # scales are float16


@pytest.mark.parametrize(("bits", "expected"), [(4, 0.09), (8, 0.006)])
def test_error_of_normal_weights_is_known(bits: int, expected: float):
    # Blocks of 32 normal numbers reach about 2.1 standard deviations: a step of 2.1 / 8 has an
    # error of 0.26 / sqrt(12) = 0.076 and clipping adds to it; 8 bits are 16 times finer.
    matrix = RANDOM.normal(size=(64, 256)).astype(np.float32)
    blocks = quantize_blocks(matrix, bits=bits, block_size=32)
    error = relative_error(matrix, blocks.restored())
    assert 0.7 * expected < error < expected


def test_chosen_scales_lose_less_than_those_that_reach_the_largest_weight():
    matrix = RANDOM.normal(size=(64, 256)).astype(np.float32)
    blocks = quantize_blocks(matrix, bits=4, block_size=32)
    common = np.sqrt(np.mean(np.square(matrix - reaching_largest(matrix, 32))))
    error = relative_error(matrix, blocks.restored())
    assert error < 0.87 * common / np.sqrt(np.mean(np.square(matrix)))


def test_values_are_the_nearest_ones_within_the_range():
    matrix = RANDOM.normal(size=(5, 48)).astype(np.float32)
    blocks = quantize_blocks(matrix, bits=4, block_size=16)
    scales = np.repeat(blocks.scales.astype(np.float32), 16, axis=1)
    distances = np.abs(np.arange(-8, 8)[:, None, None] * scales - matrix)  # (16, 5, 48)
    np.testing.assert_array_equal(np.abs(blocks.restored() - matrix), distances.min(axis=0))


def test_the_last_block_is_shorter_where_the_width_is_not_a_multiple():
    matrix = RANDOM.normal(size=(3, 41)).astype(np.float32)
    blocks = quantize_blocks(matrix, bits=4, block_size=16)
    assert (blocks.values.shape, blocks.scales.shape) == ((3, 41), (3, 3))
    alone = quantize_blocks(matrix[:, 32:], bits=4, block_size=16)
    np.testing.assert_array_equal(blocks.values[:, 32:], alone.values)


def test_rows_do_not_depend_on_how_many_there_are():
    matrix = RANDOM.normal(size=(2049, 16)).astype(np.float32)
    blocks = quantize_blocks(matrix, bits=4, block_size=16)
    alone = quantize_blocks(matrix[-1:], bits=4, block_size=16)
    np.testing.assert_array_equal(blocks.values[-1:], alone.values)


def test_zeros_stay_zeros():
    blocks = quantize_blocks(np.zeros((2, 32), np.float32), bits=4, block_size=16)
    assert not blocks.values.any()
    assert blocks.scales.tolist() == [[1, 1], [1, 1]]
    assert relative_error(np.zeros((2, 32), np.float32), blocks.restored()) == 0


@pytest.mark.parametrize("size", [1e-6, 1e7])
def test_scales_beyond_float16_are_kept_in_float32(size: float):
    matrix = (RANDOM.normal(size=(3, 32)) * size).astype(np.float32)
    blocks = quantize_blocks(matrix, bits=4, block_size=32)
    assert blocks.scales.dtype == np.float32
    assert relative_error(matrix, blocks.restored()) < 0.1


def test_ordinary_scales_take_two_bytes():
    matrix = RANDOM.normal(size=(3, 32)).astype(np.float32)
    assert quantize_blocks(matrix, bits=4, block_size=32).scales.dtype == np.float16


def test_bytes_hold_the_integers_above_the_middle_of_the_range():
    matrix = np.zeros((1, 16), np.float32)
    matrix[0, :2] = [-4.0, 3.5]
    packed = quantize_blocks(matrix, bits=4, block_size=16).packed()
    assert packed.tolist() == [[0xF0, *[0x88] * 7]]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(broken: float):
    matrix = np.ones((2, 16), np.float32)
    matrix[1, 3] = broken
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        quantize_blocks(matrix, bits=4, block_size=16)


def test_blocks_on_a_grid_of_four_bits_are_found_again():
    matrix = np.random.default_rng(5).standard_t(3, size=(200, 96)).astype(np.float32)
    stored = quantize_blocks(matrix, bits=4, block_size=32).restored()
    again = quantize_blocks(stored, bits=4, block_size=32)
    np.testing.assert_array_equal(again.restored(), stored)
