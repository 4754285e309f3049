from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx import helper
from scipy import stats

from compressor.onnx_graph.activation_ranges import (
    Method,
    entropy_range,
    finely_rounded,
    least_squares_range,
    percentile_range,
    scale_of_range,
    signed_scale,
    static_scale,
)
from compressor.onnx_graph.observers import ActivationStatistics, Histogram
from compressor.onnx_graph.quantized_activations import ScaleAndZeroPoint

METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse", "entropy")


def observed(values: np.ndarray) -> ActivationStatistics:
    statistics = ActivationStatistics()
    statistics.update(values.reshape(-1, 1).astype(np.float32))
    return statistics


def histogram_of(values: np.ndarray) -> Histogram:
    return observed(values).histogram


def round_trip_error(values: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    integers = np.clip(np.rint(values / step) + zero, 0, 255)
    return float(np.mean(np.square((integers - zero) * step - values)))


def test_the_full_range_has_255_steps_and_zero_exact():
    scale = static_scale(observed(np.array([-1.0, 1.55])), "minmax")
    assert scale.scale == pytest.approx(0.01)
    assert scale.zero_point == 100


def test_the_range_includes_zero_where_no_value_is_negative():
    scale = static_scale(observed(np.array([2.0, 5.1])), "minmax")
    assert scale == ScaleAndZeroPoint(pytest.approx(0.02), 0)


def test_the_range_includes_zero_where_all_values_are_negative():
    assert static_scale(observed(np.array([-5.1])), "minmax") == ScaleAndZeroPoint(
        pytest.approx(0.02), 255
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_is_exact(method: Method):
    scale = static_scale(observed(np.full(100, 0.7)), method)
    integer = np.clip(np.rint(0.7 / scale.scale) + scale.zero_point, 0, 255)
    assert (integer - scale.zero_point) * scale.scale == pytest.approx(0.7, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_keeps_zero(method: Method):
    assert static_scale(observed(np.zeros(9)), method) == ScaleAndZeroPoint(1.0, 0)


@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_floats_give_a_scale_that_is_not_zero(method: Method):
    assert static_scale(observed(np.array([1e-42, -1e-42])), method).scale > 0


@pytest.mark.parametrize("method", METHODS)
def test_what_was_never_observed_has_no_scale(method: Method):
    with pytest.raises(ValueError, match="not observed on any calibration row"):
        static_scale(ActivationStatistics(), method)


def test_a_percentile_cuts_as_many_off_on_either_side():
    values = np.arange(-500, 500) / 500
    low, high = percentile_range(histogram_of(values), -1.0, 0.998, 98)
    # One percent of 1000 values is 10; a bin is 1 / 8192 wide.
    assert low == pytest.approx(-0.98, abs=3e-3)
    assert high == pytest.approx(0.978, abs=3e-3)


def test_a_percentile_of_100_keeps_everything():
    values = np.random.default_rng(0).normal(size=999)
    low, high = float(values.min()), float(values.max())
    assert percentile_range(histogram_of(values), low, high, 100) == (low, high)


def test_no_range_has_a_smaller_squared_error_by_more_than_the_search_is_fine():
    values = np.random.default_rng(1).laplace(size=50000).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    found = least_squares_range(histogram_of(values), low, high)
    shares = np.linspace(0.02, 1, 40)
    best = min(round_trip_error(values, low * a, high * b) for a in shares for b in shares)
    assert round_trip_error(values, *found) < 1.02 * best
    assert round_trip_error(values, *found) < 0.95 * round_trip_error(values, low, high)


def test_a_few_values_far_out_are_worth_keeping_when_clipping_them_costs_more():
    values = np.concatenate([np.random.default_rng(2).uniform(-1, 1, 1000), np.full(30, 20.0)])
    low, high = least_squares_range(histogram_of(values), float(values.min()), 20.0)
    assert high > 15
    assert low == pytest.approx(-1, abs=0.1)


def test_entropy_gives_up_a_single_value_far_out_but_not_the_bulk():
    values = np.append(np.random.default_rng(3).normal(size=50000), 40.0)
    low, high = entropy_range(histogram_of(values), float(values.min()), 40.0)
    assert 2 < high < 10
    assert low == max(float(values.min()), -high)


def test_entropy_takes_the_range_of_least_divergence():
    values = np.random.default_rng(4).laplace(size=4000).astype(np.float32)
    histogram = histogram_of(values)
    low, high = float(values.min()), float(values.max())
    chosen = entropy_range(histogram, low, high)
    ends = max(-low, high) * np.linspace(0.02, 1, 100)
    divergences = {end: divergence(histogram, low, high, end) for end in ends}
    assert max(chosen[1], -chosen[0]) == pytest.approx(min(divergences, key=divergences.get))


def divergence(histogram: Histogram, low: float, high: float, end: float) -> float:
    """Return the divergence of a range with plain loops, `scipy.stats.entropy` at the end."""
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    inside = np.flatnonzero((centres >= max(low, -end)) & (centres <= min(high, end)))
    if len(inside) < 256:
        return np.inf
    counts = histogram.counts[inside].astype(float)
    clipped = counts.copy()
    clipped[0] += histogram.counts[: inside[0]].sum()
    clipped[-1] += histogram.counts[inside[-1] + 1 :].sum()
    coarse = np.zeros_like(counts)
    borders = [int(len(counts) * level / 256) for level in range(257)]
    for first, last in pairwise(borders):
        filled = counts[first:last] > 0
        if filled.any():
            coarse[first:last][filled] = counts[first:last].sum() / filled.sum()
    coarse /= coarse.sum()
    return float(stats.entropy(clipped / clipped.sum(), np.maximum(coarse, 1e-12)))


def test_a_scale_covers_its_range_up_to_half_a_step():
    scale = scale_of_range(-0.333, 1.1)
    lowest, highest = (scale.scale * (end - scale.zero_point) for end in (0, 255))
    assert abs(lowest + 0.333) <= scale.scale / 2
    assert abs(highest - 1.1) <= scale.scale / 2


def test_a_fixed_scale_is_as_fine_where_tokens_have_one_range_and_not_where_they_differ(make_graph):
    random = np.random.default_rng(5)
    alike = random.uniform(-1, 1, size=(200, 64)).astype(np.float32)
    # One token in twenty is 20 times as large, and the scale of all has to hold it.
    unlike = alike * np.where(np.arange(200) % 20 == 0, 20, 1)[:, None].astype(np.float32)
    graph = make_graph([helper.make_node("Add", ["alike", "unlike"], ["y"])], {}, {})
    statistics = {"alike": ActivationStatistics(), "unlike": ActivationStatistics()}
    statistics["alike"].update(alike)
    statistics["unlike"].update(unlike)
    scales = {name: static_scale(item, "minmax") for name, item in statistics.items()}
    assert list(finely_rounded(graph, statistics, scales)) == ["alike"]


def test_zeros_are_as_fine_as_they_get(make_graph):
    graph = make_graph([helper.make_node("Relu", ["x"], ["y"])], {}, {})
    statistics = {"x": ActivationStatistics()}
    statistics["x"].update(np.zeros((3, 4), np.float32))
    assert finely_rounded(graph, statistics, {"x": ScaleAndZeroPoint(1.0, 0)})


def signed_error(values: np.ndarray, scale: float) -> float:
    rounded = np.clip(np.rint(values / scale), -128, 127) * scale
    return float(np.mean(np.square(rounded - values)))


@pytest.mark.parametrize("values", [[-2.54, 1.0], [0.0, 2.54]])
def test_signed_scale_reaches_the_farthest_value_on_either_side(values: list[float]):
    assert signed_scale(observed(np.array(values)), "minmax") == pytest.approx(0.02)


@pytest.mark.parametrize("method", METHODS)
def test_signed_scale_of_nothing_but_zeros_is_one(method: Method):
    assert signed_scale(observed(np.zeros(10)), method) == 1.0


def test_signed_scale_of_a_percentile_leaves_a_rare_value_out():
    values = np.append(np.linspace(-1, 1, 10_001), 100.0)
    found = signed_scale(observed(values), "percentile", percentile=99.9)
    assert found == pytest.approx(1 / 127, rel=0.05)


def test_signed_scale_of_least_squares_beats_every_end_that_was_tried_by_hand():
    values = np.random.default_rng(5).standard_t(3, 20_000)
    best = signed_error(values, signed_scale(observed(values), "mse"))
    largest = np.abs(values).max()
    by_hand = min(signed_error(values, largest * share / 127) for share in np.linspace(0.02, 1, 50))
    assert best <= by_hand * 1.02  # a histogram in place of the values


@pytest.mark.parametrize("method", METHODS)
def test_signed_scale_needs_a_value(method: Method):
    with pytest.raises(ValueError, match="not observed on any calibration row"):
        signed_scale(ActivationStatistics(), method)
