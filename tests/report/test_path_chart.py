from typing import Any

import pytest

from compressor.report.path_chart import BOTTOM, TOP, WIDTH, path_chart
from compressor.report.report_json import from_plain


def test_the_way_leads_through_the_kept_models_only(passed: dict[str, Any]):
    found = path_chart(from_plain(passed))
    assert found is not None
    kept = [mark for column in found.columns for mark in column.marks if mark.role != "try"]
    assert found.line == "M" + " L".join(f"{mark.x},{mark.y}" for mark in kept)
    assert [mark.label for mark in kept] == ["90.00%", "89.50%", "89.40%", "89.40%"]


def test_a_refused_attempt_is_a_cross_below_the_budget(passed: dict[str, Any]):
    found = path_chart(from_plain(passed))
    assert found is not None
    [refused] = [mark for column in found.columns for mark in column.marks if mark.role == "try"]
    assert refused.y > found.limit.position
    assert refused.title == "1 · prune_structured, try 1: 86.00%, 56.0 MB, refused"
    assert found.has_refused


def test_an_attempt_that_passed_but_was_not_kept_is_a_hollow_square_off_the_line(report_in_state):
    found = path_chart(from_plain(report_in_state("missed-goal")))
    assert found is not None
    [spare] = [mark for column in found.columns for mark in column.marks if mark.role == "spare"]
    assert spare.title.endswith(", passed but not kept")
    assert f"{spare.x},{spare.y}" not in found.line
    assert found.has_spare


def test_a_bar_is_as_high_as_the_file_is_large(passed: dict[str, Any]):
    found = path_chart(from_plain(passed))
    assert found is not None
    bars = [column.bar for column in found.columns]
    heights = [bar.height for bar in bars if bar is not None]
    assert heights[1] / heights[0] == pytest.approx(68.0 / 90.8, abs=0.01)
    assert [bar.label for bar in bars if bar is not None] == [
        "90.8 MB", "68.0 MB", "17.4 MB", "17.4 MB",
    ]  # fmt: skip


def test_an_attempt_far_below_the_budget_is_cut_off_and_says_so(passed: dict[str, Any]):
    passed["passes"][0]["tries"][0]["score_after"] = 0.5
    found = path_chart(from_plain(passed))
    assert found is not None
    [refused] = [mark for column in found.columns for mark in column.marks if mark.role == "try"]
    assert (refused.y, refused.label) == (BOTTOM, "50.00% ↓")
    # What the budget allows still takes a visible part of the height.
    baseline = found.columns[0].marks[0]
    assert found.limit.position - baseline.y > 0.1 * (BOTTOM - TOP)


def test_steps_after_the_stop_stay_empty(report_in_state):
    found = path_chart(from_plain(report_in_state("over-budget")))
    assert found is not None
    assert [len(column.marks) for column in found.columns] == [1, 2, 0, 0]
    assert found.columns[1].bar is None  # nothing was kept


def test_everything_lies_inside_the_picture_with_many_passes_and_tries(passed: dict[str, Any]):
    passed["passes"] = [passed["passes"][0] | {"tries": passed["passes"][0]["tries"] * 4}] * 8
    found = path_chart(from_plain(passed))
    assert found is not None
    marks = [mark for column in found.columns for mark in column.marks]
    assert all(0 < mark.x < WIDTH and TOP <= mark.y <= BOTTOM for mark in marks)
    places = [mark.x for mark in marks]
    assert places == sorted(places)


def test_long_names_are_broken_at_words(passed: dict[str, Any]):
    passed["passes"] = [passed["passes"][0]] * 8
    found = path_chart(from_plain(passed))
    assert found is not None
    assert found.columns[1].lines == ("1 · prune_", "structured")


def test_without_a_baseline_there_is_no_picture(report_in_state):
    assert path_chart(from_plain(report_in_state("failed-before-baseline"))) is None
