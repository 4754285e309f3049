"""What the report says about a goal: with what it was met, or how near the search came."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.report import verdict
from compressor.report.report_json import from_plain
from compressor.report.target import is_missed, met_words
from compressor.report.view import view_of


def test_a_goal_that_was_met_is_told_with_its_fraction(passed: dict[str, Any]):
    words = (
        "asked for at most 20 MB, reached 17.4 MB, with 50% of the fraction that the recipe allows "
        "in pass 1"
    )
    assert met_words(from_plain(passed)) == words
    assert view_of(from_plain(passed)).target == words
    assert not view_of(from_plain(passed)).was_repaired


def test_a_goal_that_was_met_without_the_pass_says_so(passed: dict[str, Any]):
    passed["target"]["share"] = 0.0
    assert met_words(from_plain(passed)) == (
        "asked for at most 20 MB, reached 17.4 MB, with pass 1 left out"
    )


def test_a_goal_that_was_missed_says_what_the_best_was(report_in_state: Any):
    data = report_in_state("missed-goal")
    assert is_missed(from_plain(data))
    assert verdict.headline(from_plain(data)) == (
        "Goal not reached: asked for at most 20 MB, and the best within the budget is 22.0 MB"
    )
    assert met_words(from_plain(data)) is None
    assert "raise budget.max_drop" in str(verdict.next_step(from_plain(data)))


def test_when_all_may_go_and_the_goal_is_missed_only_a_larger_fraction_helps(report_in_state: Any):
    data = report_in_state("missed-goal")
    data["target"]["share"] = 1.0
    assert "let more go in the recipe" in str(verdict.next_step(from_plain(data)))
    assert "max_drop" not in str(verdict.next_step(from_plain(data)))


def test_a_search_in_which_every_gate_failed_has_no_best(report_in_state: Any):
    data = report_in_state("missed-goal")
    data["target"] |= {"reached": None, "share": None}
    assert verdict.headline(from_plain(data)).endswith(
        "no fraction that was tried is within the budget"
    )


def test_a_speedup_is_a_factor(passed: dict[str, Any]):
    passed["target"] |= {"kind": "speedup", "goal": "at least 2 times as fast", "reached": 2.344}
    assert "reached 2.34 times as fast" in str(met_words(from_plain(passed)))


@pytest.mark.parametrize("state", ["over-budget", "failed-before-baseline"])
def test_a_run_without_a_goal_says_nothing_of_one(report_in_state: Any, state: str):
    data = report_in_state(state)
    assert met_words(from_plain(data)) is None
    assert not is_missed(from_plain(data))
