from typing import Any

import pytest

from compressor.report.questions import answers
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain
from compressor.report.slices_and_flips import slices_summary


def said(data: dict[str, Any]) -> list[str]:
    return [item.answer for item in answers(from_plain(data))]


def certified(data: dict[str, Any], verdict: str = "certified") -> dict[str, Any]:
    data["certificate"] |= {"verdict": verdict, "upper_bound": 0.0087, "lower_bound": 0.021}
    first = data["certificate_readings"][1] | {"number": 1}
    return data | {"inconclusive_allowed": False, "certificate_readings": [first]}


def test_a_proven_run_says_how_sure_it_is(report_in_state):
    good, sure, gain, after = answers(from_plain(report_in_state("certified")))
    assert (good.answer, sure.answer, gain.answer, after.answer) == (
        "Yes", "95% sure", "5.2× smaller, 2.5× faster", "Use it",
    )  # fmt: skip
    assert good.detail == (
        "Accuracy fell by 0.5 points (91.00% → 90.50%) on 900 rows kept apart; accuracy fell by "
        "0.6 points (90.00% → 89.40%) on 872 search rows; the budget is 1 point."
    )
    assert sure.detail == (
        "At most 0.87 points of accuracy lost, with 95% confidence; the budget is 1 point. Taken "
        "on 900 rows kept apart, which no step of the run had seen."
    )
    assert gain.detail == (
        "5.2× smaller (90.8 → 17.4 MB), 2.5× faster (12.0 → 4.80 ms at batch 1, 32 tokens on cpu)."
    )


def test_without_a_certification_split_nothing_is_called_sure(report_in_state):
    data = report_in_state("uncertified")
    assert said(data)[:2] == ["Yes", "Not certified"]
    assert answers(from_plain(data))[1].detail == (
        "The recipe gives no certification split: this is one measurement, on the 872 search rows "
        "that the gates looked at."
    )
    assert said(data)[3] == "Use it, or certify it first"


def test_an_open_question_is_not_a_yes(report_in_state):
    data = report_in_state("not-certified")
    assert said(data)[:2] == ["As measured, yes", "Not sure enough"]
    assert said(data)[3] == "More rows"


def test_a_run_that_was_accepted_without_proof_is_good_as_measured(passed: dict[str, Any]):
    assert said(passed | {"inconclusive_allowed": True})[0] == "As measured, yes"


def test_a_refuted_run_is_sure_of_the_contrary(report_in_state):
    data = certified(report_in_state("over-budget-on-certification"), "refuted")
    assert said(data)[:2] == ["No", "95% sure that it is not"]


def test_a_run_that_stopped_gained_nothing_yet(report_in_state):
    assert said(report_in_state("over-budget"))[:3] == ["No", "—", "Nothing yet"]
    assert said(report_in_state("failed-before-baseline"))[:3] == ["Unknown", "—", "Nothing yet"]


def test_a_run_that_was_stopped_knows_its_last_gate(report_in_state):
    good = answers(from_plain(report_in_state("stopped-at-second-pass")))[0]
    assert good.answer == "So far, yes"
    assert good.detail == (
        "After pass 1 (prune_structured), accuracy fell by 0.5 points (90.00% → 89.50%); the "
        "budget is 1 point."
    )


def test_a_slice_that_lost_too_much_spoils_the_yes(passed: dict[str, Any]):
    detail = answers(from_plain(passed))[0].detail
    assert detail.endswith("But label = negative lost more than 1 point, and that is proven.")


@pytest.mark.parametrize("render", [render_html, render_markdown])
@pytest.mark.parametrize(
    "question", ["Is it good enough?", "How sure are we?", "What was gained?", "What next?"]
)
def test_every_state_answers_the_questions(render, question: str, any_state: dict[str, Any]):
    assert question in render(from_plain(any_state))


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_a_second_reading_of_the_same_rows_is_not_called_sure(render, passed: dict[str, Any]):
    readings = passed["certificate_readings"]
    data = certified(passed) | {"certificate_readings": readings}
    assert answers(from_plain(data))[1].answer == "95% sure, if it were the first reading"
    assert "this is reading 2" in render(from_plain(data))
    assert "The certification split is read once" not in render(from_plain(data))


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_a_first_reading_says_that_it_is_the_only_one(render, passed: dict[str, Any]):
    text = render(from_plain(certified(passed)))
    assert "The certification split is read once" in text
    assert "had been read before" not in text


def lost_a_slice(data: dict[str, Any]) -> dict[str, Any]:
    worst = data["slices"][0] | {
        "name": "label negative",
        "verdict": "refuted",
        "drop": 0.05,
        "lower_bound": 0.031,
        "max_drop": 0.02,
    }
    recipe = data["recipe"] | {"budget": {"max_drop": 0.01, "confidence": 0.9}}
    ended = {"verdict": "budget_exceeded", "guilty_step": "slices", "recipe": recipe}
    return certified(data) | ended | {"slices": [worst]}


def test_a_slice_that_is_proven_to_lose_is_no_matter_of_measurement(passed: dict[str, Any]):
    good, sure, *_ = answers(from_plain(lost_a_slice(passed)))
    assert (good.answer, sure.answer) == ("No", "90% sure that it is not")
    assert sure.detail == (
        "With 90% confidence, for all slices together, label negative lost at least 3.1 points, "
        "more than the 2 points that a slice may."
    )
    assert good.detail == (
        "The 450 rows of label negative lost 5 points, a slice may lose 2 points (proven: at "
        "least 3.1 points)."
    )


def test_without_labels_a_slice_changed_predictions_and_lost_nothing_known(passed: dict[str, Any]):
    data = lost_a_slice(passed) | {"metric": "agreement"}
    good, sure, *_ = answers(from_plain(data))
    assert "label negative changed at least 3.1% of its predictions" in sure.detail
    assert "5% of the predictions for the 450 rows" in good.detail
    assert "proven to change more than 2% of their predictions" in slices_summary(from_plain(data))


@pytest.mark.parametrize(("metric", "proven"), [("accuracy", "3.1 points"), ("agreement", "3.1%")])
def test_what_a_slice_lost_at_least_is_rounded_down(
    metric: str, proven: str, passed: dict[str, Any]
):
    data = lost_a_slice(passed) | {"metric": metric}
    data["slices"][0]["lower_bound"] = 0.03109
    assert all(f"at least {proven}" in item.detail for item in answers(from_plain(data))[:2])


def test_a_run_that_stopped_after_its_artifact_was_scored_knows_the_score(passed: dict[str, Any]):
    data = certified(passed) | {"verdict": "failed", "guilty_step": "benchmark", "slices": []}
    good = answers(from_plain(data))[0]
    assert good.answer == "Not finished"
    assert good.detail.startswith("Accuracy fell by 0.5 points (91.00% → 90.50%)")
    assert good.detail.endswith("there is no artifact to use.")
