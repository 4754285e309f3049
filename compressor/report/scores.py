"""How scores of a run changed, and on how many rows, as sentences say it."""

from __future__ import annotations

from compressor.measurements import End, RunReport
from compressor.report import units
from compressor.words import counted, moved_and_budget, points


def value_of(report: RunReport, end: End) -> float | None:
    """Return the score of the `baseline` or `final` model on the search split."""
    record = report.model(end)
    return None if record is None else units.known(record.score.value)


def final_drop(report: RunReport) -> float | None:
    """Return how far the final score lies below the baseline, as a fraction."""
    before, after = value_of(report, "baseline"), value_of(report, "final")
    return None if before is None or after is None else before - after


def rows_words(report: RunReport, amount: int) -> str:
    """Return a number of examples with what they are, such as `872 rows` or `1 text`."""
    metric = units.metric_of(report.metric)
    return counted(amount, "row") if metric is None else counted(amount, metric.unit, metric.units)


def search_rows(report: RunReport) -> str:
    """Return how many examples the gates looked at, such as `872 search rows`."""
    assert report.baseline is not None
    amount = report.baseline.score.num_examples
    return rows_words(report, amount).replace(" ", " search ", 1)


def change_words(
    report: RunReport, before: float | None, after: float | None, drop: float | None
) -> str:
    """Say how a score changed, such as `accuracy fell by 0.6 points (90.00% → 89.40%)`."""
    return change_and_budget(report, before, after, drop)[0]


def change_and_budget(
    report: RunReport, before: float | None, after: float | None, drop: float | None
) -> tuple[str, str]:
    """Return `change_words` and the budget, with digits that tell the two apart."""
    name = units.metric_words(report.metric)
    drop = units.known(drop)
    if units.known(after) is None or drop is None:
        return f"{name} was not measured", budget_words(report)
    if units.counts_changes(report.metric):
        changed = f"{100 * drop:.4g}%" if drop > 0 else "none"
        return f"{changed} of the predictions changed", budget_words(report)
    change, allowed = moved_and_budget(drop, report.max_drop)
    old, new = (units.score(report.metric, value) for value in (before, after))
    values = old if old == new else f"{old} → {new}"
    return f"{name} {change} ({values})", allowed


def budget_words(report: RunReport) -> str:
    """Return the budget, such as `1 point`; without labels a share of predictions, such as `1%`."""
    limit = report.max_drop
    return f"{100 * limit:.4g}%" if units.counts_changes(report.metric) else points(limit)


def measured_words(report: RunReport) -> str | None:
    """Say how the score changed: first on the rows kept apart, then on those of the gates."""
    proof = report.certification
    drop = final_drop(report)
    if drop is None:
        return None
    words = change_words(report, value_of(report, "baseline"), value_of(report, "final"), drop)
    if proof is None:
        return f"{words} on {search_rows(report)}"
    ends = proof.baseline.value, proof.final.value
    apart = change_words(report, *ends, proof.drop)
    kept = rows_words(report, proof.final.num_examples)
    return f"{apart} on {kept} kept apart; {words} on {search_rows(report)}"
