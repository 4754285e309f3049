from __future__ import annotations

import math

import pytest

from compressor.passes.prune_structured.latency_cost import TableCost, latency_table, measured_sizes


def test_lines_are_drawn_between_points_and_the_rest_is_left_alone():
    table = latency_table({0: 1.0, 1: 2.0, 2: 2.0}, {0: 0.0, 4: 2.0, 6: 6.0})
    assert table.attention == (1.0, 2.0, 2.0)
    assert table.feed_forward == (0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 6.0)


def test_points_that_fall_are_replaced_by_the_closest_that_do_not():
    # 5 and 3 become their mean; that is still below 6.
    table = latency_table({0: 1.0, 1: 5.0, 2: 3.0, 3: 6.0}, {0: 0.0})
    assert table.attention == (1.0, 4.0, 4.0, 6.0)
    assert table.feed_forward == (0.0,)


def test_an_encoder_takes_the_sum_of_its_sub_layers():
    table = latency_table({0: 1.0, 2: 3.0}, {0: 0.5, 2: 4.5})
    last = latency_table({0: 0.5, 2: 1.0}, {0: 0.25, 2: 0.5})
    cost = TableCost((table, last), heads=(2, 0), neurons=(1, 2))
    assert cost.of_layer(0, 1, 0) == 2.0 + 0.5
    assert cost.of_layer(1, 2, 0) == 1.0 + 0.25
    assert cost.total == (3.0 + 2.5) + (0.5 + 0.5)


@pytest.mark.parametrize(
    ("largest", "block", "most", "sizes"),
    [
        (4, 1, 9, (0, 1, 2, 3, 4)),
        (70, 16, 9, (0, 16, 32, 48, 64, 70)),
        (160, 16, 5, (0, 48, 96, 144, 160)),
        (0, 16, 5, (0,)),
    ],
)
def test_measured_sizes_are_multiples_of_a_block_and_both_ends(
    largest: int, block: int, most: int, sizes: tuple[int, ...]
):
    assert measured_sizes(largest, block, most) == sizes


@pytest.mark.parametrize("points", [{}, {1: 1.0}, {0: math.nan}, {0: -1.0}, {0: 1.0, 2: math.inf}])
def test_points_that_are_no_times_are_refused(points: dict[int, float]):
    with pytest.raises(ValueError, match="needs times of 0 heads and more, finite"):
        latency_table(points, {0: 1.0})
    with pytest.raises(ValueError, match="needs times of 0 neurons and more, finite"):
        latency_table({0: 1.0}, points)
