from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from compressor.passes.prune_structured.latency_profile import (
    LatencyProfile,
    LayerPoints,
    LayerWork,
    fit_profile,
    median_profile,
    profile_points,
    rounding_error,
)

# Twelve and a half neurons are as much work as one head.
WORK = LayerWork(head=125.0, neuron=10.0, empty=0.25, num_tokens=20)
# A whole layer takes 20: 2 of each sub-layer is fixed, heads take 10 and neurons 6.
OTHERS = LayerPoints({0: 1.0, 2: 7.0, 4: 12.0}, {0: 1.0, 20: 5.0, 40: 8.0})


def test_figures_are_read_off_times_in_any_unit():
    last = LayerPoints({0: 0.1, 2: 4.5, 4: 7.0}, {0: 0.1, 20: 2.6, 40: 3.2})
    found = fit_profile(OTHERS, last, WORK)
    tenfold = LayerPoints(
        {count: 10 * value for count, value in OTHERS.attention.items()},
        {count: 10 * value for count, value in OTHERS.feed_forward.items()},
    )
    # Half of what is fixed is left without units, twice the usual quarter: a step, of which two
    # thirds count, as both are 0.1 of a layer and not 0.15. 2 of 20 are the usual tenth. Heads take
    # 10 / 6 for 1.25 times the work, log(10 / 6 / 1.25) / log(1.5) is 0.7095. Half of the heads'
    # time is left, and a fifth of the neurons', of which
    # the time of 6.5 tokens in 20 is usual: log2(0.2 / 0.325) is -0.7004.
    assert astuple(found) == pytest.approx((2 / 3, 0.0, 0.7095, 2.0, -0.7004), abs=1e-4)
    assert astuple(fit_profile(tenfold, None, WORK))[:3] == pytest.approx(astuple(found)[:3])
    assert found.rounded() == LatencyProfile(1, 0, 1, 2, -1)


def test_points_follow_from_rounded_figures():
    others, last = profile_points(LatencyProfile(1, 0, 0, 2, -1), 4, 40, WORK)
    # 0.8 of a layer are units': 500 for heads, 400 for neurons.
    assert others.attention == pytest.approx({0: 0.05, 1: 0.1 + 0.8 * 5 / 9 / 4, 4: 0.1 + 4 / 9})
    assert others.feed_forward == pytest.approx({0: 0.05, 1: 0.1 + 3.2 / 9 / 40, 40: 0.1 + 3.2 / 9})
    assert others.attention[4] + others.feed_forward[40] == pytest.approx(1.0)
    assert last.attention[4] == pytest.approx(0.1 + 2 / 9)
    assert last.feed_forward[40] == pytest.approx(0.1 + 0.1625 * 3.2 / 9)
    assert last.attention[0] == pytest.approx(0.05 / 20)


def test_units_of_a_last_layer_never_cost_nothing():
    _, last = profile_points(LatencyProfile(0, 0, 0, 0, -9), 4, 40, WORK)
    assert last.attention[4] == pytest.approx(0.1 + 4 / 9 / 20)
    assert last.feed_forward[40] == pytest.approx(0.1 + 3.2 / 9 / 20)


def test_times_that_wander_by_some_percent_give_the_same_figures():
    moved = LayerPoints({0: 1.05, 2: 6.8, 4: 12.3}, {0: 0.95, 20: 5.1, 40: 7.9})
    assert fit_profile(moved, None, WORK).rounded() == fit_profile(OTHERS, None, WORK).rounded()


def test_models_without_heads_or_without_neurons_have_figures():
    no_heads = fit_profile(LayerPoints({0: 1.0}, OTHERS.feed_forward), None, WORK)
    no_neurons = fit_profile(LayerPoints(OTHERS.attention, {0: 1.0}), None, WORK)
    nothing = fit_profile(LayerPoints({0: 0.0}, {0: 0.0}), None, WORK)
    assert no_heads.heads is no_neurons.heads is nothing.heads is None
    others, _ = profile_points(no_heads.rounded(), 0, 40, WORK)
    assert list(others.attention) == [0]
    assert others.feed_forward[40] > others.feed_forward[1] > others.feed_forward[0]
    assert list(profile_points(nothing.rounded(), 0, 0, WORK)[0].attention) == [0]


def test_a_figure_near_the_edge_of_its_step_has_to_be_known_better():
    middle, edge = (LatencyProfile(value, 0.0, None, None, None) for value in (1.0, 1.45))
    around = [-0.1, 0.1, -0.1, 0.1]

    def wandering(profile: LatencyProfile) -> list[LatencyProfile]:
        return [replace(profile, empty=profile.empty + step) for step in around]

    # 1.25 times the standard deviation, 0.1155, over the root of 4: 0.0722 of a step. In the middle
    # 0.1 is enough; 0.05 from the edge a third of that is 0.0167, and 0.02 the finest asked for.
    assert rounding_error(wandering(middle)) == pytest.approx(0.722, abs=0.001)
    assert rounding_error(wandering(edge)) == pytest.approx(3.61, abs=0.01)
    assert median_profile(wandering(middle)).empty == pytest.approx(1.0)
