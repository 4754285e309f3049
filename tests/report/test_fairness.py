"""Groups are shown with both error rates, and a run that ends by them says which."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.measurements import RunReport
from compressor.report.fairness import gap_views
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain, to_plain
from compressor.report.verdict import headline, next_step

GAP = {
    "column": "who",
    "groups": [
        {"name": "who = <i>a", "num_examples": 600, "before": 0.0, "after": 0.15, "change": 0.15},
        {"name": "who = b", "num_examples": 600, "before": 0.01, "after": 0.005, "change": -0.005},
    ],
    "difference_before": 0.01,
    "difference_after": 0.145,
    "ratio_before": 0.0,
    "ratio_after": 0.005 / 0.15,
    "gap": 0.155,
    "upper_bound": 0.1834,
    "lower_bound": 0.12851,
    "confidence": 0.95,
    "max_gap": 0.05,
    "verdict": "refuted",
}


@pytest.fixture
def report(passed: dict[str, Any]) -> RunReport:
    return from_plain(passed | {"gaps": [GAP], "verdict": "budget_exceeded", "guilty_step": "gaps"})


def test_both_error_rates_and_the_bounds_are_shown(report: RunReport):
    [view] = gap_views(report)
    assert [(row.before, row.after, row.change) for row in view.groups] == [
        ("0.00%", "15.00%", "+15.00"),
        ("1.00%", "0.50%", "−0.50"),
    ]
    # Rounded to the side on which each bound holds.
    assert (view.gap, view.bounds) == ("15.50", "12.85 points to 18.34 points")
    assert (view.ratio_before, view.ratio_after) == ("0.000", "0.033")
    assert "corrected for the number of pairs" in view.summary


def test_a_gap_that_may_be_none_is_said_so(passed: dict[str, Any]):
    found = from_plain(passed | {"gaps": [GAP | {"lower_bound": 0.0, "verdict": "inconclusive"}]})
    [view] = gap_views(found)
    assert view.summary.endswith("and it is not proven that any two differ.")


def test_names_of_groups_are_escaped(report: RunReport):
    page, text = render_html(report), render_markdown(report)
    assert "who = &lt;i>a" in text
    assert "who = &lt;i&gt;a" in page
    assert "<i>a" not in page
    assert to_plain(report)["gaps"] == [GAP]


def test_without_a_budget_there_is_no_verdict(passed: dict[str, Any]):
    found = from_plain(passed | {"gaps": [GAP | {"max_gap": None, "verdict": None}]})
    [view] = gap_views(found)
    assert (view.verdict, view.allowed) == ("", "")
    assert "Fairness between groups" in render_html(found)


def test_the_first_line_says_which_group_lost_more(report: RunReport):
    assert headline(report) == (
        "Over budget between groups of the data: the error rate of who = <i>a rose by 15.5 points "
        "more than that of who = b, 5 points are allowed (proven: at least 12.85 points)"
    )
    assert "raise budget.max_slice_gap" in next_step(report)


def test_reports_of_before_have_no_gaps(passed: dict[str, Any]):
    old = {key: value for key, value in passed.items() if key != "gaps"}
    assert from_plain(old).gaps == ()
