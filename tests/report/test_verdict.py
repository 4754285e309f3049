"""One sentence says how a run ended and how sure that is, and another what to do next."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from compressor.measurements import RecallRecord, RunReport
from compressor.report import questions, verdict
from compressor.report.report_json import from_plain


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            "certified",
            "Passed: at most 0.87 points of accuracy lost, with 95% confidence, on 900 rows kept "
            "apart (budget 1 point)",
        ),
        (
            "uncertified",
            "Passed: accuracy fell by 0.6 points (90.00% → 89.40%) on 872 search rows (budget 1 "
            "point); not certified: that takes about 1,300 rows kept apart in data.certification",
        ),
        (
            "passed",
            "Passed without proof: accuracy fell by 0.5 points (91.00% → 90.50%) on 900 rows kept "
            "apart, within the budget of 1 point, but all that is proven is at most 1.23 points of "
            "accuracy lost, with 95% confidence",
        ),
        (
            "over-budget",
            "Over budget after pass 1 of 2 (prune_structured): accuracy fell by 5 points (90.00% → "
            "85.00%), the budget allows 1 point",
        ),
        (
            "over-budget-on-certification",
            "Over budget on 900 rows kept apart: accuracy fell by 3 points (91.00% → 88.00%), the "
            "budget allows 1 point",
        ),
        (
            "missed-goal",
            "Goal not reached: asked for at most 20 MB, and the best within the budget is 22.0 MB",
        ),
        (
            "not-certified",
            "Not certified: accuracy fell by 0.5 points (91.00% → 90.50%) on 900 rows kept apart, "
            "within the budget of 1 point, but all that is proven is at most 1.23 points of "
            "accuracy lost, with 95% confidence",
        ),
        ("failed-at-second-pass", "Failed in pass 2 of 2 (quantize_dynamic)"),
        (
            "failed-before-baseline",
            "Failed while checkpoint and data were loaded, before anything was measured",
        ),
        (
            "stopped-at-second-pass",
            "Stopped by you after pass 1 of 2; run the same command again to resume",
        ),
        (
            "bug-at-second-pass",
            "Internal error in pass 2 of 2 (quantize_dynamic): a bug in compressor, not a mistake "
            "of yours",
        ),
        (
            "embeddings",
            "Passed without proof: at most 0.92 points of cosine similarity lost, with 95% "
            "confidence, on 872 texts kept apart (budget 1 point), if this were their first "
            "reading: it is number 2",
        ),
    ],
)
def test_every_end_is_one_plain_sentence(report_in_state: Any, state: str, sentence: str):
    assert verdict.headline(from_plain(report_in_state(state))) == sentence


def test_a_gain_in_score_is_a_rise(report_in_state: Any):
    data = report_in_state("uncertified")
    data["final"]["score"]["value"] = 0.9052
    assert verdict.headline(from_plain(data)).startswith(
        "Passed: accuracy rose by 0.52 points (90.00% → 90.52%) on 872 search rows"
    )


def test_a_score_that_stayed_did_not_change(report_in_state: Any):
    data = report_in_state("uncertified")
    data["final"]["score"]["value"] = 0.9
    assert verdict.headline(from_plain(data)).startswith(
        "Passed: accuracy did not change (90.00%) on 872 search rows"
    )


def test_rows_whose_number_is_not_known_are_asked_for_without_one(report_in_state: Any):
    data = report_in_state("uncertified") | {"rows_to_certify": None}
    assert verdict.headline(from_plain(data)).endswith(
        "that takes rows kept apart in data.certification"
    )


def test_a_bound_below_zero_proves_that_nothing_was_lost(report_in_state: Any):
    data = report_in_state("certified")
    data["certificate"]["upper_bound"] = -0.001
    assert verdict.headline(from_plain(data)).startswith(
        "Passed: no accuracy lost, with 95% confidence"
    )


def test_without_labels_predictions_changed(report_in_state: Any):
    data = report_in_state("certified") | {"metric": "agreement"}
    data["certificate"] |= {"metric": "agreement", "upper_bound": 0.0088}
    assert verdict.headline(from_plain(data)) == (
        "Passed: at most 0.88% of the predictions changed, with 95% confidence, on 900 rows kept "
        "apart (budget 1%)"
    )


def test_a_proven_loss_is_said_where_the_rows_kept_apart_refuse(report_in_state: Any):
    data = report_in_state("over-budget-on-certification")
    data["certificate"] |= {"verdict": "refuted", "lower_bound": 0.0213}
    assert verdict.headline(from_plain(data)).endswith(
        "the budget allows 1 point; proven: at least 2.13 points of accuracy lost, with 95% "
        "confidence"
    )


def test_a_loss_just_above_the_budget_does_not_read_like_it(report_in_state: Any):
    data = report_in_state("over-budget")
    data["passes"][0] |= {"score_after": 0.9 - 3 / 299, "drop": 3 / 299}
    assert "accuracy fell by 1.003 points" in verdict.headline(from_plain(data))


def test_a_doubt_is_in_the_title(report_in_state: Any):
    data = report_in_state("certified") | {"doubts": ["A coin would pass"]}
    assert verdict.title(from_plain(data)) == "Passed, with a doubt"
    assert verdict.tone(from_plain(data)) == "doubtful"


def test_a_run_that_a_scheduler_stopped_was_not_stopped_by_you(report_in_state: Any):
    reason = (
        "stopped from outside (SIGTERM); run the same command again, without --force, to resume"
    )
    data = report_in_state("stopped-at-second-pass") | {"reason": reason}
    assert verdict.headline(from_plain(data)) == (
        "Stopped from outside after pass 1 of 2; run the same command again, without --force, to "
        "resume"
    )


def test_a_run_stopped_behind_its_passes_says_where(report_in_state: Any):
    stopped = {"verdict": "stopped", "guilty_step": "benchmark", "reason": "stopped by you; x"}
    assert verdict.headline(from_plain(report_in_state("certified") | stopped)) == (
        "Stopped by you after pass 2 of 2, in the benchmark; run the same command again to resume"
    )


def test_a_run_stopped_in_its_first_pass_came_as_far_as_the_baseline(report_in_state: Any):
    data = report_in_state("stopped-at-second-pass")
    data["passes"] = data["passes"][1:]
    assert verdict.headline(from_plain(data)).startswith("Stopped by you after the baseline;")


def test_a_stopped_run_is_neither_red_nor_a_failure(report_in_state: Any):
    data = report_in_state("stopped-at-second-pass")
    assert (verdict.title(from_plain(data)), verdict.tone(from_plain(data))) == (
        "Stopped",
        "stopped",
    )
    assert verdict.next_step(from_plain(data)) == (
        "Run the same command again to resume. Finished steps are not done again."
    )


def test_a_bug_is_to_be_reported_and_nothing_is_to_be_corrected(report_in_state: Any):
    text = verdict.next_step(from_plain(report_in_state("bug-at-second-pass")))
    assert text.startswith("Report the bug with the traceback")


def test_a_proven_run_is_to_be_used(report_in_state: Any):
    assert verdict.next_step(from_plain(report_in_state("certified"))) == (
        "Use the model in artifact/: its README.md shows how to load it."
    )


def test_a_run_without_rows_kept_apart_says_how_many_it_takes(report_in_state: Any):
    assert verdict.next_step(from_plain(report_in_state("uncertified"))).startswith(
        "To certify the drop, give data.certification about 1,300 rows kept apart from the other "
        "splits, and run again."
    )


def test_an_unproven_run_says_how_many_rows_would_settle_it(report_in_state: Any):
    assert verdict.next_step(from_plain(report_in_state("not-certified"))) == (
        "To prove it, give data.certification about 5,400 rows in all or raise budget.max_drop, or "
        "accept the missing proof with --allow-inconclusive."
    )


def unproven_recall(**changes: Any) -> RecallRecord:
    """Return what three rows prove of one class."""
    fields: dict[str, Any] = {
        "kind": "spam", "budget": "max_missed", "there": 3, "before": 3, "after": 3,
        "num_units": 3, "drop": 0.0, "upper_bound": 0.632, "lower_bound": 0.0,
        "verdict": "inconclusive", "max_drop": 0.05, "confidence": 0.95, "needed_units": 59,
    }  # fmt: skip
    return RecallRecord(**{**fields, **changes})


def with_recalls(data: dict[str, Any], *recalls: RecallRecord, **changes: Any) -> RunReport:
    return dataclasses.replace(from_plain(data), recalls=recalls, **changes)


def test_what_is_not_proven_of_one_class_is_said_of_it_and_not_of_the_whole(report_in_state: Any):
    known = unproven_recall(kind="ham", verdict="certified", needed_units=None)
    changes = {"verdict": "not_certified", "guilty_step": "certification"}
    report = with_recalls(report_in_state("certified"), unproven_recall(), known, **changes)
    words = verdict.headline(report)
    assert words.startswith("Not certified: ")
    assert words.endswith(
        "but all that 3 rows that hold spam prove is that its recall fell by at most 63.2 points, "
        "with 95% confidence; the budget is 5 points"
    )
    assert verdict.next_step(report) == (
        "To prove it, give data.certification about 59 rows that hold spam in all or raise "
        "budget.max_missed, or accept the missing proof with --allow-inconclusive."
    )
    [sure] = [item for item in questions.answers(report) if item.question.startswith("How sure")]
    assert sure.answer == "Not sure enough"
    assert "3 rows that hold spam" in sure.detail


def test_an_accepted_missing_proof_of_one_class_is_said_too(report_in_state: Any):
    report = with_recalls(
        report_in_state("certified"), unproven_recall(num_units=1), inconclusive_allowed=True
    )
    words = verdict.headline(report)
    assert words.startswith("Passed without proof: ")
    assert "all that 1 row that holds spam proves is that its recall" in words
    assert verdict.next_step(report).startswith(
        "To prove it, give data.certification about 59 rows that hold spam in all or raise "
        "budget.max_missed. Use the model"
    )


def test_advice_names_the_last_pass_within_the_budget(make_report: Any):
    data = make_report(verdict="budget_exceeded", guilty_step="x", final=None).to_dict()
    data["passes"][1]["verdict"] = "budget_exceeded"
    assert "Up to pass 1 (prune_structured) the run was within the budget" in verdict.next_step(
        from_plain(data)
    )


def test_advice_after_good_passes_points_at_the_export(report_in_state: Any):
    data = report_in_state("over-budget-on-certification") | {"guilty_step": "artifact"}
    assert "Every pass stayed within" in verdict.next_step(from_plain(data))


def test_advice_after_a_failed_certification_asks_for_other_rows(report_in_state: Any):
    text = verdict.next_step(from_plain(report_in_state("over-budget-on-certification")))
    assert "prove the next model with other rows" in text
    assert "parity" not in text


def test_a_missing_part_without_a_reason_is_blamed_on_the_step_that_stopped(report_in_state: Any):
    data = report_in_state("over-budget")
    assert verdict.why_missing(from_plain(data), "certification") == (
        "the run stopped at passes[0] (prune_structured)"
    )


def test_a_loss_in_a_pass_that_was_not_repaired_names_the_repair(report_in_state: Any):
    data = report_in_state("over-budget")
    data["passes"][0]["tries"] = data["passes"][0]["tries"][:1]
    assert verdict.next_step(from_plain(data)) == (
        "Use milder settings for this pass, let the run look for them (on_failure: repair), or "
        "raise budget.max_drop if that loss is acceptable."
    )


def test_a_loss_after_a_repair_does_not_name_it_again(report_in_state: Any):
    assert verdict.next_step(from_plain(report_in_state("over-budget"))) == (
        "Use milder settings for this pass, or raise budget.max_drop if that loss is acceptable."
    )


def test_a_size_that_was_missed_names_what_the_fraction_does_not_touch(report_in_state: Any):
    assert "trim_vocabulary and int4" in verdict.next_step(
        from_plain(report_in_state("missed-goal"))
    )
