import math
import re
from itertools import pairwise

import pytest

from compressor.report import charts
from compressor.report.chart_parts import marker_path
from compressor.report.charts import Point, score_chart


def chart(*points: Point, lowest_allowed: float | None = None) -> charts.Chart:
    return score_chart(
        points,
        metric="accuracy",
        cost="latency p50, ms (batch 1, cpu)",
        unit="ms",
        lowest_allowed=lowest_allowed,
    )


def test_the_area_of_a_marker_is_proportional_to_the_bytes():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 100_000_000, "baseline"),
        Point("final", None, 5.0, 0.89, 25_000_000),
    )
    big, small = drawn.markers
    assert (big.radius / small.radius) ** 2 == pytest.approx(4.0, rel=1e-3)


def test_latency_is_drawn_from_zero():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 9, "baseline"), Point("final", None, 5.0, 0.9, 9)
    )
    assert (drawn.x_ticks[0].label, drawn.x_ticks[0].position) == ("0", charts.LEFT)
    x = {marker.is_baseline: marker.x for marker in drawn.markers}
    assert (x[True] - charts.LEFT) == pytest.approx(2 * (x[False] - charts.LEFT), abs=0.2)


def test_a_better_score_stands_higher():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 9, "baseline"), Point("final", None, 5.0, 0.8, 9)
    )
    y = {marker.is_baseline: marker.y for marker in drawn.markers}
    assert y[True] < y[False]


def test_every_marker_and_the_budget_lie_inside_the_plot():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 9, "baseline"),
        Point("final", None, 2.0, 0.7, 9),
        lowest_allowed=0.5,
    )
    assert drawn.limit is not None
    heights = [marker.y for marker in drawn.markers] + [drawn.limit.position]
    assert all(charts.TOP <= y <= drawn.bottom for y in heights)
    assert all(charts.LEFT <= marker.x <= drawn.right for marker in drawn.markers)


def test_ticks_of_a_score_are_round_numbers_in_per_cent():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 9, "baseline"), Point("final", None, 5.0, 0.894, 9)
    )
    assert [tick.label for tick in drawn.y_ticks] == ["89.0", "89.5", "90.0", "90.5"]


@pytest.mark.parametrize("shape", ["square", "diamond", "triangle"])
def test_all_shapes_have_the_area_of_their_circle(shape: str):
    corners = [
        tuple(map(float, pair.split(",")))
        for pair in marker_path(shape, 50.0, 60.0, 10.0).strip("MZ ").split(" L")
    ]
    shifted = [*corners[1:], corners[0]]
    doubled = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, shifted, strict=True))
    assert abs(doubled) / 2 == pytest.approx(math.pi * 100, rel=2e-3)


def test_runs_are_told_apart_by_shape():
    drawn = chart(*(Point("final", run, 5.0 * run, 0.9, 9) for run in (1, 2, 3, 4)))
    assert len({charts.SHAPES[marker.series % 4] for marker in drawn.markers}) == 4


def test_points_that_coincide_share_a_label():
    drawn = chart(
        Point("baseline", 1, 10.0, 0.9, 90_000_000, "baseline"),
        Point("baseline", 2, 10.1, 0.9, 90_000_000, "baseline"),
        Point("final", 2, 4.0, 0.9, 30_000_000),
    )
    assert {label.text for label in drawn.labels} == {
        "baseline 1, 2 · 90.0 MB",
        "final 2 · 30.0 MB",
    }


def test_labels_do_not_cover_each_other():
    drawn = chart(*(Point("final", run, 5.0, 0.9 + run * 1e-4, 10**run) for run in range(1, 8)))
    heights = sorted(label.y for label in drawn.labels if label.anchor == "start")
    assert all(b - a >= 15 for a, b in pairwise(heights))


def test_a_single_point_with_no_bytes_and_no_time_can_be_drawn():
    drawn = chart(Point("final", None, 0.0, 0.0, 0))
    assert drawn.markers[0].radius == charts.MIN_RADIUS


def test_a_chart_without_points_is_refused():
    with pytest.raises(ValueError, match="at least one point"):
        chart()


def test_the_front_is_ringed_joined_and_told_in_the_table():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 9, "baseline"),
        Point("worse", None, 6.0, 0.85, 9, "try"),
        Point("final", None, 5.0, 0.89, 9),
    )
    assert {figure.name: figure.on_front for figure in drawn.figures} == {
        "baseline": True, "worse": False, "final": True,
    }  # fmt: skip
    ringed = [marker for marker in drawn.markers if marker.ring is not None]
    assert {marker.role for marker in ringed} == {"baseline", "final"}
    cheap, dear = sorted(ringed, key=lambda marker: marker.x)
    assert drawn.front == f"M{cheap.x},{cheap.y} H{dear.x} V{dear.y}"


def test_one_model_alone_has_no_front_line():
    assert chart(Point("final", None, 5.0, 0.89, 9)).front == ""


def test_a_score_far_below_the_budget_stands_at_the_bottom_with_its_figure():
    drawn = chart(
        Point("baseline", None, 10.0, 0.9, 9, "baseline"),
        Point("lost", None, 5.0, 0.3, 9, "try"),
        lowest_allowed=0.89,
    )
    assert [label.text for label in drawn.labels if "lost" in label.text] == [
        "lost · 0.00000900 MB · 30.00% ↓"
    ]
    [lost] = [marker for marker in drawn.markers if marker.role == "try"]
    assert lost.y == drawn.bottom


def test_roles_of_one_run_are_told_apart_by_shape():
    roles = ("baseline", "pass", "try", "final")
    drawn = chart(
        *(Point(role, None, 5.0 + index, 0.9, 9, role) for index, role in enumerate(roles))
    )
    by_role = {marker.role: re.sub(r"[-0-9.,]+", "", marker.path) for marker in drawn.markers}
    assert by_role["baseline"] == "M a    a    Z"
    assert by_role["try"].count("M") == 2
    assert by_role["pass"] == by_role["final"] == "M L L L Z"
