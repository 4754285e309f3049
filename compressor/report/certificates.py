"""How sure a run is of its scores: what the certification split proves, and what speaks against."""

from __future__ import annotations

from compressor.measurements import Certificate, RunReport, SliceRecord
from compressor.report import scores, units
from compressor.words import about, bound_points, counted, points


def confidence_words(proof: Certificate) -> str:
    """Return how sure a bound is, such as `95% confidence`."""
    return f"{100 * proof.confidence:g}% confidence"


def lost_at_most(proof: Certificate) -> str:
    """Say the most that may be lost, such as `at most 0.87 points of accuracy lost`."""
    if units.counts_changes(proof.metric):
        return f"at most {bound_percent(proof)} of the predictions changed"
    name = units.metric_words(proof.metric)
    if proof.upper_bound <= 0:
        return f"no {name} lost"
    return f"at most {bound_words(proof)} of {name} lost"


def bound_words(proof: Certificate | SliceRecord, *, upwards: bool = True) -> str:
    """Return a bound in points with the unit, rounded to the side on which it holds."""
    end = proof.upper_bound if upwards else proof.lower_bound
    return bound_points(end, proof.max_drop, upwards=upwards)


def certificate_words(report: RunReport) -> str | None:
    """Say what the certification split proves about the drop; None when none was read."""
    proof = report.certificate
    accepted = ". The run was told to accept that" if report.inconclusive_allowed else ""
    if proof is None:
        if report.certification is None:
            return None
        reason = report.missing.get("certificate", "no reason was recorded")
        return f"Nothing is proven about the drop: {reason}{accepted}"
    sure, budget = confidence_words(proof), scores.budget_words(report)
    most = lost_at_most(proof)
    if proof.verdict == "certified":
        return f"Certified: {most}, with {sure}; the budget is {budget}"
    if proof.verdict == "refuted":
        return f"Refuted: {lost_at_least(proof)}, with {sure}; the budget is {budget}"
    if (guess := guess_words(report)) is not None:
        return f"Inconclusive: {most}, with {sure}, but {guess}{accepted}"
    words = f"Inconclusive: all that is proven, with {sure}, is {most}; the budget is {budget}"
    if proof.needed_examples is None:
        return words + accepted
    needed = scores.rows_words(report, proof.needed_examples).partition(" ")[2]
    return f"{words}, and {about(proof.needed_examples)} {needed} would settle it{accepted}"


def lost_at_least(proof: Certificate) -> str:
    """Say what is lost at least, such as `at least 2.13 points of accuracy lost`."""
    if units.counts_changes(proof.metric):
        return f"at least {bound_percent(proof, upwards=False)} of the predictions changed"
    name = units.metric_words(proof.metric)
    return f"at least {bound_words(proof, upwards=False)} of {name} lost"


def certification_words(report: RunReport) -> str | None:
    """Say what was measured on the certification split; None when there was none to read."""
    proof = report.certification
    if proof is None:
        return None
    ends = proof.baseline.value, proof.final.value
    change, budget = scores.change_and_budget(report, *ends, proof.drop)
    rows = scores.rows_words(report, proof.final.num_examples)
    return f"On {rows} kept apart, which no step of the run had seen, {change}; budget {budget}"


def guess_words(report: RunReport) -> str | None:
    """Say that a model which knows nothing would pass on the same rows; None where none would."""
    proof = report.certificate
    guess = None if proof is None else passing_guess(proof)
    if proof is None or guess is None:
        return None
    return f"a budget of {points(proof.max_drop)} proves nothing on these rows: {guess}"


def passing_guess(proof: Certificate) -> str | None:
    """Say which model that knows nothing would pass on the rows of `proof`; None where none would.

    A model would where these rows do not prove that it lost more than the budget.
    """
    known, budget = proof.uninformed, proof.max_drop
    if known is None or known.least_drop is None or known.least_drop > budget:
        return None
    value, name = units.score(proof.metric, known.score), units.metric_words(proof.metric)
    return f"the {name} of {known.who} is {value}, and that would pass too"


def reading_number(report: RunReport) -> int:
    """Return which result read off the certification rows this run's is, counted from 1."""
    found = report.certificate_readings
    return next((item.number for item in found if item.is_this_run), 1)


def readings_words(report: RunReport) -> str | None:
    """Warn when the certification rows had been read before; None for a first reading."""
    number = reading_number(report)
    if number < 2:
        return None
    return (
        f"These rows had been read before in this directory, with another result: this is reading "
        f"{number}, and a certificate only holds for rows that no choice was made on"
    )


def certificate_counts(report: RunReport) -> str | None:
    """Say what the certificate was computed from, and how."""
    proof = report.certificate
    if proof is None:
        return None
    losses, total = proof.losses, proof.num_examples
    counts = f"{counted(losses, 'prediction')} turned wrong and {proof.wins:,} turned right"
    if units.counts_changes(proof.metric):
        counts = f"{losses:,} of {counted(total, 'prediction')} changed"
    elif (metric := units.metric_of(proof.metric)) is not None and metric.is_fine:
        counts = f"{losses:,} of {counted(total, metric.unit, metric.units)} lost"
    return f"{counts} ({proof.method})"


def doubts(report: RunReport) -> list[str]:
    """Return what speaks against taking the scores of a run for proof, each a sentence."""
    return [f"{text}." for text in report.doubts]


def bound_percent(proof: Certificate | SliceRecord, *, upwards: bool = True) -> str:
    """Return a bound as a share of the predictions, rounded as `bound_words` rounds."""
    return f"{bound_words(proof, upwards=upwards).partition(' ')[0]}%"
