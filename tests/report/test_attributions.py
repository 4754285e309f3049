"""The agreement of attributions in words, and a run that ends by it."""

from __future__ import annotations

from typing import Any

from compressor.measurements import AttributionRecord, RunReport
from compressor.report.attributions import agreement_view, passing_attributions
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain
from compressor.report.verdict import headline, next_step

FOUND = {
    "agreement": 0.91251,
    "lower_bound": 0.88889,
    "upper_bound": 0.93,
    "min_agreement": 0.8,
    "verdict": "certified",
    "confidence": 0.95,
    "num_examples": 200,
    "left_out": 1,
    "explained": "logit of the score",
    "method": "paired BCa bootstrap",
    "needed_examples": None,
    "uninformed": "attributions of another example",
    "uninformed_agreement": 0.1,
    "uninformed_most": 0.15,
}


def not_certified(passed: dict[str, Any], found: dict[str, Any]) -> RunReport:
    """Return the report of a run that proved its score, and not its attributions."""
    proof = passed["certificate"] | {"verdict": "certified", "upper_bound": 0.009}
    return from_plain(
        passed | {"attributions": found, "certificate": proof, "verdict": "not_certified"}
    )


def test_a_bound_is_rounded_down(passed: dict[str, Any]):
    view = agreement_view(from_plain(passed | {"attributions": FOUND}))
    assert view is not None
    assert (view.agreement, view.bound, view.allowed) == ("0.913", "0.888", "0.8")
    assert "on 200 rows of the certification split" in view.summary
    assert "1 further row said nothing" in view.summary


def test_both_forms_of_the_report_have_it(passed: dict[str, Any]):
    report = from_plain(passed | {"attributions": FOUND})
    assert "<h2>Attributions</h2>" in render_html(report)
    assert "| 0.913 | 0.888 | 0.8 | certified |" in render_markdown(report)
    assert "Attributions" not in render_html(from_plain(passed | {"attributions": None}))


def test_a_run_that_proves_too_little_says_so(passed: dict[str, Any]):
    unproven = FOUND | {"lower_bound": 0.7, "verdict": "inconclusive", "needed_examples": 400}
    report = not_certified(passed, unproven)
    assert "attributions agree with the original's by 0.913" in headline(report)
    assert "at least 0.700; the budget asks for 0.8" in headline(report)
    assert "lower budget.min_attribution_agreement" in next_step(report)


def test_attributions_that_know_nothing_and_would_pass_are_named(passed: dict[str, Any]):
    record = AttributionRecord(**(FOUND | {"uninformed_most": 0.85}))  # type: ignore[arg-type]
    told = passing_attributions(record)
    assert told is not None
    assert told.startswith("the agreement of attributions of another example is 0.100")
    assert passing_attributions(AttributionRecord(**FOUND)) is None  # type: ignore[arg-type]
    unproven = FOUND | {"uninformed_most": 0.85, "verdict": "inconclusive"}
    report = not_certified(passed, unproven)
    assert "raise budget.min_attribution_agreement" in next_step(report)
