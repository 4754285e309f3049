from typing import Any

from compressor.report.attempts import size_points, stages, was_repaired
from compressor.report.report_json import from_plain


def test_every_attempt_is_there_and_the_kept_one_is_told_apart(passed: dict[str, Any]):
    baseline, prune, quantize, final = stages(from_plain(passed))
    assert [item.role for item in prune.attempts] == ["try", "pass"]
    assert [item.change for item in prune.attempts] == ["", "ratio 0.5 -> 0.25"]
    assert prune.kept is prune.attempts[1]
    assert [stage.title for stage in (baseline, quantize, final)] == [
        "Baseline", "2 · quantize_dynamic", "Final artifact",
    ]  # fmt: skip
    assert was_repaired(from_plain(passed | {"target": None}))
    assert not was_repaired(from_plain(passed))  # its goal had several fractions tried, no gate did


def test_a_report_without_tries_counts_each_pass_once(passed: dict[str, Any], report_in_state):
    for record in passed["passes"]:
        record["tries"] = []
    assert [len(stage.attempts) for stage in stages(from_plain(passed))] == [1, 1, 1, 1]
    assert not was_repaired(from_plain(passed))
    refused = report_in_state("over-budget")
    refused["passes"][0]["tries"] = []
    assert stages(from_plain(refused))[1].attempts[0].role == "try"


def test_steps_that_were_not_reached_have_no_attempt(report_in_state):
    found = stages(from_plain(report_in_state("over-budget")))
    assert [stage.title for stage in found if not stage.attempts] == [
        "2 · quantize_dynamic", "Final artifact",
    ]  # fmt: skip


def test_the_last_pass_is_not_drawn_over_the_final_artifact(passed: dict[str, Any]):
    # The quantized model is the final artifact: same score, same bytes.
    found = [(point.name, point.role, point.cost) for point in size_points(from_plain(passed))]
    assert found == [
        ("Baseline", "baseline", 90.8),
        ("1, try 1", "try", 56.0),
        ("1, try 2", "pass", 68.0),
        ("Final artifact", "final", 17.4),
    ]


def test_what_failed_before_it_was_measured_has_no_point(report_in_state):
    data = report_in_state("failed-at-second-pass")
    assert [point.role for point in size_points(from_plain(data))] == ["baseline", "try", "pass"]


def test_a_candidate_that_passed_but_was_not_kept_is_not_called_refused(report_in_state):
    prune = stages(from_plain(report_in_state("missed-goal")))[1]
    assert [item.role for item in prune.attempts] == ["try", "spare"]
    assert prune.kept is None
