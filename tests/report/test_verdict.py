from typing import Any

import pytest

from compressor.report import verdict


def test_a_passed_run_is_one_plain_sentence(passed: dict[str, Any]):
    assert verdict.headline(passed) == (
        "5.2× smaller, 2.5× faster at batch 1, 32 tokens on cpu, "
        "accuracy 90.00% → 89.40% (−0.60 points; budget 1.00)"
    )


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            "over-budget",
            "Pass 1 of 2 (prune_structured) lost too much: "
            "accuracy 90.00% → 85.00% (−5.00 points; budget 1.00)",
        ),
        (
            "over-budget-on-certification",
            "The final model, on the certification split, lost too much: "
            "accuracy 91.00% → 88.00% (−3.00 points; budget 1.00)",
        ),
        (
            "not-certified",
            "The final model is within the budget, but the data cannot prove it: "
            "accuracy 91.00% → 90.50% (−0.50 points; budget 1.00)",
        ),
        ("failed-at-second-pass", "Pass 2 of 2 (quantize_dynamic) failed"),
        (
            "stopped-at-second-pass",
            "Pass 2 of 2 (quantize_dynamic) was under way when the run was stopped",
        ),
        ("bug-at-second-pass", "Pass 2 of 2 (quantize_dynamic) met a bug in compressor"),
        (
            "failed-before-baseline",
            "Loading the checkpoint and the data failed, so nothing was measured",
        ),
        (
            "without-latencies",
            "5.2× smaller, latency not measured, "
            "accuracy 90.00% → 89.40% (−0.60 points; budget 1.00)",
        ),
        (
            "without-passes",
            "Same size, 2.5× faster at batch 1, 32 tokens on cpu, "
            "accuracy 90.00% → 90.00% (0.00 points; budget 1.00)",
        ),
        (
            "images",
            "5.2× smaller, 1.4× faster at batch 1 on cpu, "
            "accuracy 90.00% → 89.40% (−0.60 points; budget 1.00)",
        ),
    ],
)
def test_the_headline_of_every_other_end(report_in_state, state: str, sentence: str):
    assert verdict.headline(report_in_state(state)) == sentence


def test_a_stopped_run_is_to_be_resumed_and_nothing_is_to_be_put_right(report_in_state):
    data = report_in_state("stopped-at-second-pass")
    assert verdict.title(data) == "Stopped"
    assert (verdict.advice(data) or "").startswith("Run the same command again")


def test_a_bug_is_to_be_reported_and_nothing_is_to_be_put_right(report_in_state):
    data = report_in_state("bug-at-second-pass")
    assert verdict.title(data) == "Internal error"
    assert (verdict.advice(data) or "").startswith("Report the bug with the traceback")


def test_a_passed_run_needs_no_advice(passed: dict[str, Any]):
    assert verdict.advice(passed) is None


def test_advice_names_the_last_pass_within_the_budget(make_report):
    data = make_report(verdict="budget_exceeded", guilty_step="x", final=None).to_dict()
    data["passes"][1]["verdict"] = "budget_exceeded"
    text = verdict.advice(data) or ""
    assert "Up to pass 1 (prune_structured) the run was within the budget" in text


def test_advice_after_good_passes_points_at_the_export(report_in_state):
    data = report_in_state("over-budget-on-certification") | {"guilty_step": "artifact"}
    assert "Every pass stayed within" in (verdict.advice(data) or "")


def test_advice_after_a_failed_certification_asks_for_other_rows(report_in_state):
    text = str(verdict.advice(report_in_state("over-budget-on-certification")))
    assert "prove the next model with others" in text
    assert "parity" not in text


def test_the_score_card_names_its_split_where_another_one_decides(report_in_state):
    [card] = [
        card
        for card in verdict.cards(report_in_state("over-budget-on-certification"))
        if card.title == "Accuracy"
    ]
    assert card.detail == "budget 1.00 points, 872 search examples"


def test_the_score_card_shows_how_much_of_the_budget_is_used(passed: dict[str, Any]):
    card = verdict.cards(passed)[2]
    assert (card.before, card.after, card.ratio) == ("90.00%", "89.40%", "−0.60 points")
    assert card.budget_used == pytest.approx(0.6)


def test_a_budget_of_zero_has_no_meter(passed: dict[str, Any]):
    passed["max_drop"] = 0.0
    assert verdict.cards(passed)[2].budget_used is None


def test_cards_show_the_baseline_alone_when_there_is_no_artifact(report_in_state):
    cards = verdict.cards(report_in_state("over-budget"))
    assert [(card.before, card.after) for card in cards] == [
        ("", "90.8"),
        ("", "90.00%"),
        ("", "22.7 M"),
    ]


def test_there_are_no_cards_when_nothing_was_measured(report_in_state):
    assert verdict.cards(report_in_state("failed-before-baseline")) == []


def test_a_missing_part_without_a_reason_is_blamed_on_the_step_that_stopped(report_in_state):
    data = report_in_state("over-budget")
    assert verdict.why_missing(data, "certification") == (
        "the run stopped at passes[0] (prune_structured)"
    )


def test_the_certification_split_is_put_into_words(passed: dict[str, Any]):
    assert verdict.certification_words(passed) == (
        "On 900 examples that no step of the run had seen: "
        "accuracy 91.00% → 90.50% (−0.50 points; budget 1.00)"
    )


def test_a_certificate_says_how_sure_it_is(passed: dict[str, Any]):
    passed["certificate"] |= {"verdict": "certified", "upper_bound": 0.0087}
    assert verdict.certificate_words(passed) == (
        "Certified: with 95% confidence, the drop is at most 0.87 points; the budget is 1.00"
    )


def test_a_refuted_budget_gives_the_least_drop(passed: dict[str, Any]):
    passed["certificate"] |= {"verdict": "refuted", "lower_bound": 0.0213}
    assert verdict.certificate_words(passed) == (
        "Refuted: with 95% confidence, the drop is at least 2.13 points, more than the budget of "
        "1.00"
    )


def test_an_open_question_names_the_examples_it_needs(passed: dict[str, Any]):
    stopped = {**passed, "inconclusive_allowed": False}
    words = (
        "Inconclusive: with 95% confidence, all that is proven is that the drop is at most 1.23 "
        "points, and the budget is 1.00; about 5,400 examples would settle it"
    )
    assert verdict.certificate_words(stopped) == words
    assert verdict.certificate_words(passed) == f"{words}. The run was told to go on without proof"


def test_an_open_question_that_no_number_settles_names_none(passed: dict[str, Any]):
    passed["certificate"]["needed_examples"] = None
    assert "settle" not in (verdict.certificate_words(passed) or "")


def test_rows_without_a_bound_are_said_to_prove_nothing(passed: dict[str, Any]):
    reason = {"certificate": "all labels are one class"}
    data = {**passed, "certificate": None, "missing": reason, "inconclusive_allowed": False}
    assert verdict.certificate_words(data) == (
        "Nothing is proven about the drop: all labels are one class"
    )


def test_a_certificate_without_labels_speaks_of_changed_answers(passed: dict[str, Any]):
    passed["certificate"] |= {
        "metric": "agreement", "verdict": "certified", "losses": 5, "upper_bound": 0.0088,
    }  # fmt: skip
    assert verdict.certificate_words(passed) == (
        "Certified: with 95% confidence, the share of changed answers is at most 0.88%; the budget "
        "is 1.00%"
    )
    assert verdict.certificate_counts(passed) == "5 of 900 answers changed (Tango's score interval)"


def half(data: dict[str, Any], after: int) -> dict[str, Any]:
    """Return a run on 45.4 MB of float16, whose export in float32 takes 90.8 MB."""
    final = {**data["final"], "size": {**data["final"]["size"], "bytes_on_disk": after}}
    return {**data, "source_bytes": 45_400_000, "final": final}


def test_an_artifact_larger_than_the_file_that_was_given_is_not_smaller(passed: dict[str, Any]):
    # 51.9 MB are 1.143 times 45.4 MB, and 90.8 MB are 1.75 times 51.9 MB.
    data = half(passed, 51_900_000)
    assert verdict.headline(data).startswith("1.1× larger, ")
    card = verdict.cards(data)[0]
    assert (card.before, card.after, card.ratio) == ("45.4", "51.9", "1.1× larger")
    assert card.detail == (
        "model file alone; in float32, as ONNX, the original takes 90.8 MB; the artifact is 1.7× "
        "smaller than that"
    )


def test_a_file_given_in_float32_needs_no_word_about_its_export(passed: dict[str, Any]):
    assert verdict.cards({**passed, "source_bytes": 90_100_000})[0].detail == "model file alone"


def test_a_report_that_does_not_know_the_given_file_compares_with_the_export(
    passed: dict[str, Any],
):
    assert verdict.size_words({**passed, "source_bytes": None}) == "5.2× smaller"
