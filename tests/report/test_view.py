from typing import Any

from compressor.report.report_json import from_plain
from compressor.report.view import moment, view_of


def test_parts_that_are_missing_for_one_reason_stand_together(report_in_state):
    missing = dict(view_of(from_plain(report_in_state("over-budget"))).missing)
    assert missing["the final artifact, agreement of the export with PyTorch, latency"] == (
        "the run stopped before this was measured"
    )


def test_a_run_with_everything_has_nothing_missing(passed: dict[str, Any]):
    assert view_of(from_plain(passed)).missing == ()


def test_a_missing_measurement_is_named_by_its_path(passed: dict[str, Any]):
    passed["missing"] = {"passes[0].score_after": "the measurement came out as nan"}
    assert view_of(from_plain(passed)).missing == (
        ("passes[0].score_after", "the measurement came out as nan"),
    )


def test_nested_settings_are_spelled_as_on_the_command_line(passed: dict[str, Any]):
    assert view_of(from_plain(passed)).steps[0].settings == (
        ("ratio", "0.25"),
        ("importance", "taylor"),
        ("recovery.kind", "distill"),
        ("recovery.epochs", "1"),
    )


def test_columns_of_another_provider_begin_a_group(report_in_state):
    assert view_of(from_plain(report_in_state("several-providers"))).group_starts == {0, 4}


def test_a_moment_is_shown_in_utc():
    assert moment("2026-05-03T01:05:00+02:00") == "2 May 2026, 23:05 UTC"


def test_a_moment_that_is_none_stays_as_it_is():
    assert moment("yesterday") == "yesterday"


def test_a_resumed_run_took_what_all_of_its_steps_took(passed: dict[str, Any]):
    steps = [
        {"name": "baseline: score", "seconds": 30.0, "reused": True},
        {"name": "export", "seconds": 90.0, "reused": True},
        {"name": "parity", "seconds": 1.0, "reused": False},
    ]
    resumed = {**passed, "seconds": 1.9, "steps": steps}
    assert view_of(from_plain(resumed)).duration == (
        "2 min 02 s in all: 1.9 s in this run, 2 min 00 s in earlier ones"
    )


def test_a_run_without_earlier_steps_took_what_it_took(passed: dict[str, Any]):
    assert view_of(from_plain({**passed, "seconds": 1.9, "steps": []})).duration == "1.9 s"
