"""The questions that everybody asks about a compressed model, and short answers."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measurements import RunReport
from compressor.report import (
    certificates,
    gains,
    provenance,
    recalls,
    scores,
    target,
    units,
    verdict,
)
from compressor.report.certificates import certificate_words, confidence_words, readings_words
from compressor.words import points

_NEXT = {
    "budget_exceeded": "Milder settings, or more budget",
    "not_certified": "A smaller budget, or harder rows",
    "failed": "Correct it, run again",
    "stopped": "Run it again",
    "internal_error": "Report it",
}


@dataclass(frozen=True)
class Answer:
    """A question, the answer in a few words, and what it rests on."""

    question: str
    answer: str
    detail: str


def answers(report: RunReport) -> list[Answer]:
    """Return whether it is good enough, how sure that is, what was gained and what to do next."""
    return [_good_enough(report), _how_sure(report), _gain(report), _next(report)]


def _good_enough(report: RunReport) -> Answer:
    question = "Is it good enough?"
    measured = scores.measured_words(report)
    if report.verdict in verdict.UNFINISHED and measured is None:
        return _so_far(report, question)
    if report.verdict in verdict.UNFINISHED:
        words = f"{_capital(str(measured))}. The run ended after that, and there is "
        return Answer(question, "Not finished", f"{words}no artifact to use.")
    budget = f"the budget is {scores.budget_words(report)}"
    if report.verdict == "budget_exceeded":
        return Answer(question, "No", f"{_capital(verdict.headline(report).partition(': ')[2])}.")
    answer = "As measured, yes" if verdict.tone(report) != "passed" else "Yes"
    if measured is None:
        return Answer(question, answer, f"The score was not measured; {budget}.")
    return Answer(question, answer, f"{_capital(measured)}; {budget}.{_refuted(report)}")


def _so_far(report: RunReport, question: str) -> Answer:
    """Say how the last pass that was judged left the score of a run that did not end."""
    judged = [item for item in enumerate(report.passes, start=1) if item[1].verdict == "passed"]
    if not judged:
        return Answer(question, "Unknown", "The run ended before there was a model to judge.")
    number, record = judged[-1]
    ends = scores.value_of(report, "baseline"), record.score_after
    change, budget = scores.change_and_budget(report, *ends, record.drop)
    words = f"After pass {number} ({record.kind}), {change}; the budget is {budget}."
    return Answer(question, "So far, yes", words)


def _refuted(report: RunReport) -> str:
    """Say which slices are proven to lose too much, because an average can hide them."""
    names = [item.name for item in report.slices if item.verdict == "refuted"]
    if not names:
        return ""
    limit = report.slices[0].max_drop
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    if units.counts_changes(report.metric):
        allowed = f"{100 * limit:.4g}%"
        return f" But {names[0]}{more} changed more than {allowed} of the predictions, proven."
    return f" But {names[0]}{more} lost more than {points(limit)}, and that is proven."


def _how_sure(report: RunReport) -> Answer:
    question = "How sure are we?"
    proof, words = report.certificate, certificate_words(report)
    if report.guilty_step == "slices" and report.slices:
        confidence = provenance.value_at(report.recipe, "budget", "confidence")
        assert isinstance(confidence, int | float)
        sure = f"{100 * confidence:g}%"
        name = report.slices[0].name
        detail = f"With {sure} confidence, for all slices together, {name} {_least(report)}."
        return Answer(question, f"{sure} sure that it is not", detail)
    if proof is None or words is None:
        answer = "Not certified" if report.final else units.DASH
        return Answer(question, answer, _unproven(report))
    _, _, rest = words.partition(": ")
    sure = confidence_words(proof).partition(" ")[0]
    answer = {
        "certified": f"{sure} sure",
        "refuted": f"{sure} sure that it is not",
        "inconclusive": "Not sure enough",
    }[proof.verdict]
    rows = scores.rows_words(report, proof.num_examples)
    taken = f"Taken on {rows} kept apart, which no step of the run had seen."
    warning = readings_words(report)
    if warning is not None:
        taken = f"{warning}."
        if proof.verdict == "certified":
            answer += ", if it were the first reading"
    unproven = recalls.unproven_words(report) if proof.verdict == "certified" else None
    if unproven is not None:
        return Answer(question, "Not sure enough", f"{_capital(rest)}, but {unproven}. {taken}")
    return Answer(question, answer, f"{_capital(rest)}. {taken}")


def _least(report: RunReport) -> str:
    """Say how much the worst slice lost at least, against what it may lose."""
    worst = report.slices[0]
    if units.counts_changes(report.metric):
        least = certificates.bound_percent(worst, upwards=False)
        allowed = f"{100 * worst.max_drop:.4g}%"
        found = f"changed at least {least} of its predictions"
        return f"{found}, more than the {allowed} that a slice may"
    least = certificates.bound_words(worst, upwards=False)
    return f"lost at least {least}, more than the {points(worst.max_drop)} that a slice may"


def _unproven(report: RunReport) -> str:
    words = certificate_words(report)
    if words is not None:
        return f"{words}."
    if report.baseline is None or report.final is None:
        return "The run ended before there was anything to prove."
    reason = verdict.why_missing(report, "certification")
    return (
        f"{_capital(reason)}: this is one measurement, on the {scores.search_rows(report)} that "
        f"the gates looked at."
    )


def _gain(report: RunReport) -> Answer:
    question = "What was gained?"
    words = gains.gained_words(report)
    if words is None:
        return Answer(question, "Nothing yet", "The run ended before there was an artifact.")
    if against := gains.float32_words(report):
        words += f"; {against}"
    short = gains.gained_shortly(report)
    return Answer(question, _capital(short) if short else units.DASH, f"{_capital(words)}.")


def _next(report: RunReport) -> Answer:
    return Answer("What next?", _next_shortly(report), verdict.next_step(report))


def _next_shortly(report: RunReport) -> str:
    if target.is_missed(report):
        return "Ask for less"
    if report.verdict == "passed":
        if report.doubts:
            return "Clear the doubt first"
        if report.certification is None:
            return "Use it, or certify it first"
        return "Prove it first" if verdict.tone(report) != "passed" else "Use it"
    if report.verdict == "not_certified" and certificates.guess_words(report) is None:
        return "More rows"
    return _NEXT[report.verdict]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
