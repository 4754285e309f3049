from __future__ import annotations

import numpy as np
import pytest

from compressor.onnx_graph.observers import ActivationStatistics, Histogram


def heavy_tailed(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(2, size=size).astype(np.float32)


def test_counts_are_those_of_one_histogram_over_everything():
    values = heavy_tailed(5000)
    histogram = Histogram(64)
    for part in np.array_split(np.sort(np.abs(values)) * np.sign(values), 7):
        histogram.update(part)
    ordered = np.sort(np.abs(values)) * np.sign(values)
    expected, _ = np.histogram(ordered.astype(np.float64), bins=histogram.edges)
    np.testing.assert_array_equal(histogram.counts, expected)
    assert histogram.counts.sum() == 5000


def test_neither_order_nor_batches_change_a_count():
    values = heavy_tailed(3000)
    rising, falling = Histogram(32), Histogram(32)
    for value in np.sort(values):
        rising.update(value.reshape(1))
    falling.update(np.sort(values)[::-1])
    np.testing.assert_array_equal(rising.counts, falling.counts)
    np.testing.assert_array_equal(rising.edges, falling.edges)


def test_bins_reach_no_farther_than_twice_the_largest_value():
    histogram = Histogram(8)
    histogram.update(np.array([0.1, -5.0], np.float32))
    # The next power of two above 5 is 8, and 8 bins on each side are 1 wide.
    assert histogram.edges.tolist() == list(range(-8, 9))
    assert np.flatnonzero(histogram.counts).tolist() == [3, 8]  # [-5, -4) and [0, 1)


def test_a_power_of_two_opens_the_next_width():
    histogram = Histogram(4)
    histogram.update(np.array([4.0, -4.0], np.float32))
    assert histogram.edges[-1] == 8
    assert np.flatnonzero(histogram.counts).tolist() == [2, 6]


def test_zeros_stay_where_zero_is_however_far_the_bins_widen():
    histogram = Histogram(16)
    histogram.update(np.zeros(5, np.float32))
    histogram.update(np.array([1e30, -1e-30], np.float32))
    assert histogram.counts[16] == 5
    assert histogram.counts[15] == 1  # the small negative one
    assert histogram.counts.sum() == 7


def test_a_histogram_takes_the_same_memory_after_any_number_of_values():
    histogram = Histogram()
    size = histogram.counts.nbytes
    for seed in range(20):
        histogram.update(heavy_tailed(1000, seed))
    assert histogram.counts.nbytes == size


def test_extremes_tokens_and_channels_are_kept_over_batches():
    statistics = ActivationStatistics()
    statistics.update(np.array([[[1.0, -2.0], [0.5, 0.0]]], np.float32))
    statistics.update(np.array([[3.0, 1.0]], np.float32))
    assert (statistics.lowest, statistics.highest, statistics.num_tokens) == (-2, 3, 3)
    assert statistics.channel_largest.tolist() == [3, 2]
    assert statistics.histogram.counts.sum() == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float):
    with pytest.raises(ValueError, match="NaN or infinity on the calibration rows"):
        ActivationStatistics().update(np.array([[0.0, bad]], np.float32))


def test_a_batch_without_tokens_changes_nothing():
    statistics = ActivationStatistics()
    statistics.update(np.zeros((0, 4), np.float32))
    assert statistics.num_tokens == 0
