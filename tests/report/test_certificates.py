"""What the rows kept apart prove, in words that follow from the figures."""

from __future__ import annotations

from typing import Any

from compressor.report import certificates
from compressor.report.report_json import from_plain


def test_what_was_measured_on_the_rows_kept_apart_is_put_into_words(passed: dict[str, Any]):
    assert certificates.certification_words(from_plain(passed)) == (
        "On 900 rows kept apart, which no step of the run had seen, accuracy fell by 0.5 points "
        "(91.00% → 90.50%); budget 1 point"
    )


def test_a_certificate_says_how_sure_it_is(report_in_state: Any):
    assert certificates.certificate_words(from_plain(report_in_state("certified"))) == (
        "Certified: at most 0.87 points of accuracy lost, with 95% confidence; the budget is 1 "
        "point"
    )


def test_a_bound_is_rounded_to_the_side_on_which_it_holds(report_in_state: Any):
    data = report_in_state("certified")
    data["certificate"] |= {"upper_bound": 0.008701, "lower_bound": 0.00219}
    proof = from_plain(data).certificate
    assert proof is not None
    assert certificates.bound_words(proof) == "0.88 points"
    assert certificates.bound_words(proof, upwards=False) == "0.21 points"


def test_a_bound_of_one_point_is_one_point(report_in_state: Any):
    data = report_in_state("certified")
    data["certificate"]["upper_bound"] = 0.01
    proof = from_plain(data).certificate
    assert proof is not None
    assert certificates.bound_words(proof) == "1 point"


def test_a_refuted_budget_gives_the_least_drop(passed: dict[str, Any]):
    passed["certificate"] |= {"verdict": "refuted", "lower_bound": 0.0213}
    assert certificates.certificate_words(from_plain(passed)) == (
        "Refuted: at least 2.13 points of accuracy lost, with 95% confidence; the budget is 1 point"
    )


def test_an_open_question_names_the_rows_it_needs(passed: dict[str, Any]):
    stopped = {**passed, "inconclusive_allowed": False}
    words = (
        "Inconclusive: all that is proven, with 95% confidence, is at most 1.23 points of accuracy "
        "lost; the budget is 1 point, and about 5,400 rows would settle it"
    )
    assert certificates.certificate_words(from_plain(stopped)) == words
    assert (
        certificates.certificate_words(from_plain(passed))
        == f"{words}. The run was told to accept that"
    )


def test_an_open_question_that_no_number_settles_names_none(passed: dict[str, Any]):
    passed["certificate"]["needed_examples"] = None
    assert "settle" not in (certificates.certificate_words(from_plain(passed)) or "")


def test_rows_without_a_bound_are_said_to_prove_nothing(passed: dict[str, Any]):
    reason = {"certificate": "all labels are one class"}
    data = {**passed, "certificate": None, "missing": reason, "inconclusive_allowed": False}
    assert certificates.certificate_words(from_plain(data)) == (
        "Nothing is proven about the drop: all labels are one class"
    )


def test_a_certificate_without_labels_speaks_of_changed_predictions(passed: dict[str, Any]):
    passed["certificate"] |= {
        "metric": "agreement", "verdict": "certified", "losses": 5, "upper_bound": 0.0088,
    }  # fmt: skip
    data = passed | {"metric": "agreement"}
    assert certificates.certificate_words(from_plain(data)) == (
        "Certified: at most 0.88% of the predictions changed, with 95% confidence; the budget is 1%"
    )
    assert (
        certificates.certificate_counts(from_plain(data))
        == "5 of 900 predictions changed (Tango's score interval)"
    )


def test_one_prediction_is_counted_as_one(passed: dict[str, Any]):
    passed["certificate"] |= {"losses": 1, "wins": 1}
    assert certificates.certificate_counts(from_plain(passed)) == (
        "1 prediction turned wrong and 1 turned right (Tango's score interval)"
    )
