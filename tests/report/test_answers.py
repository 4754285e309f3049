from typing import Any

import pytest

from compressor.report.answers import answers, conclusion
from compressor.report.changes import slices_summary
from compressor.report.render import render_html, render_markdown


def said(data: dict[str, Any]) -> list[str]:
    return [item.answer for item in answers(data)]


def certified(data: dict[str, Any], verdict: str = "certified") -> dict[str, Any]:
    data["certificate"] |= {"verdict": verdict, "upper_bound": 0.0087, "lower_bound": 0.021}
    first = data["certificate_readings"][1] | {"number": 1}
    return data | {"inconclusive_allowed": False, "certificate_readings": [first]}


def test_a_proven_run_says_how_sure_it_is(passed: dict[str, Any]):
    data = certified(passed) | {"slices": []}
    assert conclusion(data) == "Passed: good enough, with 95% confidence"
    good, sure, gain = answers(data)
    assert (good.answer, sure.answer, gain.answer) == (
        "Yes", "95% sure", "5.2× smaller, 2.5× faster",
    )  # fmt: skip
    assert good.detail == "Accuracy 90.00% → 89.40% (−0.60 points; budget 1.00)."
    assert sure.detail == (
        "With 95% confidence, the drop is at most 0.87 points; the budget is 1.00. Taken on 900 "
        "examples that no step of the run had seen: −0.50 points."
    )
    assert gain.detail == "90.8 → 17.4 MB, 12.0 → 4.80 ms at batch 1, 32 tokens on cpu."


def test_without_a_certification_split_nothing_is_called_sure(report_in_state):
    data = report_in_state("images") | {"slices": []}
    assert conclusion(data) == "Passed: good enough as measured, but nothing is proven"
    assert said(data)[:2] == ["Yes", "Not proven"]
    assert answers(data)[1].detail == (
        "The recipe gives no certification split: this is one measurement, on the 872 search "
        "examples that the gates looked at."
    )


def test_an_open_question_is_not_a_yes(report_in_state):
    data = report_in_state("not-certified")
    assert conclusion(data) == (
        "Accuracy budget not proven: good enough as measured, but the data cannot prove it"
    )
    assert said(data)[:2] == ["As measured, yes", "Not sure enough"]


def test_a_run_that_went_on_without_proof_is_good_as_measured(passed: dict[str, Any]):
    passed["certificate"] |= {"verdict": "inconclusive"}
    assert said(passed | {"inconclusive_allowed": True})[0] == "As measured, yes"
    assert conclusion(passed) == "Passed: good enough as measured, but nothing is proven"


def test_what_the_certification_rows_lost_stands_beside_how_sure_that_is(passed: dict[str, Any]):
    passed["certificate"] |= {"num_examples": 301, "drop": 0.0199}
    passed["certificate_readings"] = []
    detail = answers(passed)[1].detail
    assert "Taken on 301 examples that no step of the run had seen: −1.99 points." in detail


def test_a_refuted_run_is_sure_of_the_contrary(report_in_state):
    data = certified(report_in_state("over-budget-on-certification"), "refuted")
    assert conclusion(data) == "Accuracy budget exceeded: not good enough, with 95% confidence"
    assert said(data)[:2] == ["No", "95% sure that it is not"]


def test_a_run_that_stopped_gained_nothing_yet(report_in_state):
    assert said(report_in_state("over-budget")) == ["No", "—", "Nothing yet"]
    assert said(report_in_state("failed-before-baseline")) == ["Unknown", "—", "Nothing yet"]


def test_a_slice_that_lost_too_much_spoils_the_yes(passed: dict[str, Any]):
    detail = answers(passed)[0].detail
    assert detail.endswith("But label = negative lost more than 1.00 points, and that is proven.")


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_every_state_answers_the_three_questions(render, any_state: dict[str, Any]):
    text = render(any_state)
    for question in ("Is it good enough?", "How sure are we?", "What was gained?"):
        assert question in text


def test_a_second_reading_of_the_same_rows_is_not_called_sure(passed: dict[str, Any]):
    readings = passed["certificate_readings"]
    data = certified(passed) | {"certificate_readings": readings}
    assert answers(data)[1].answer == "95% sure, if it were the first reading"
    for text in (render_html(data), render_markdown(data)):
        assert "this is reading 2" in text
        assert "The certification split is read once" not in text


def test_a_first_reading_says_that_it_is_the_only_one(passed: dict[str, Any]):
    for text in (render_html(certified(passed)), render_markdown(certified(passed))):
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
    data = lost_a_slice(passed)
    assert conclusion(data).endswith(": not good enough, with 90% confidence")
    good, sure, _ = answers(data)
    assert (good.answer, sure.answer) == ("No", "90% sure that it is not")
    assert sure.detail == (
        "With 90% confidence for all slices together, label negative lost at least 3.10, more than "
        "the 2.00 that a slice may."
    )


def test_without_labels_a_slice_changed_its_answers_and_lost_nothing_known(passed: dict[str, Any]):
    data = lost_a_slice(passed) | {"metric": "agreement"}
    assert "label negative changed at least 3.10" in answers(data)[1].detail
    assert "5.00% of the answers to the 450 examples" in answers(data)[0].detail
    assert "proven to change more than 2.00% of their answers" in slices_summary(data)


def test_a_run_that_stopped_after_its_artifact_was_scored_knows_the_score(passed: dict[str, Any]):
    data = certified(passed) | {"verdict": "failed", "guilty_step": "benchmark", "slices": []}
    good = answers(data)[0]
    assert good.answer == "Not finished"
    assert good.detail.startswith("Accuracy 90.00% → 89.40%")
    assert good.detail.endswith("there is no artifact to use.")


def test_what_was_gained_is_said_of_the_file_that_was_given(passed: dict[str, Any]):
    # In float16 the given file is half of its export in float32: 45.4 / 17.4 = 2.61.
    gain = answers({**passed, "source_bytes": 45_400_000})[2]
    assert gain.answer == "2.6× smaller, 2.5× faster"
    assert gain.detail.startswith(
        "45.4 → 17.4 MB (in float32, as ONNX, the original takes 90.8 MB; the artifact is 5.2× "
        "smaller than that), "
    )


def test_times_are_given_on_the_clock_of_their_ratio(passed: dict[str, Any]):
    """Beside other work the wall clock says 30 times, the CPU clock of the thread 1.6 times."""
    one = passed["latencies"][0]
    before = one | {"model": "baseline", "p50_ms": 60.0, "cpu_p50_ms": 3.2}
    after = one | {"model": "final", "p50_ms": 2.0, "cpu_p50_ms": 2.0}
    gain = answers(passed | {"latencies": [before, after]})[2]
    assert gain.answer.endswith("1.6× faster")
    assert gain.detail.endswith(", 3.20 → 2.00 ms of CPU time at batch 1, 32 tokens on cpu.")
