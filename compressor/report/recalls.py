"""What must not be missed, for a person to read: each class or type of entity by itself."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.measurements import RecallRecord, RunReport
from compressor.report import units
from compressor.report.slices_and_flips import PLACES, SLICE_STATES
from compressor.words import about, bound_and_budget, bound_points, counted, points, verb_for


@dataclass(frozen=True)
class RecallRow:
    """One class or type of entity; figures are text."""

    kind: str
    counts: str
    change: str
    bound: str
    allowed: str
    verdict: str
    state: str
    needed: str


def recall_rows(report: RunReport) -> list[RecallRow]:
    """Return the kinds that have a budget, the worst first."""
    return [
        RecallRow(
            kind=item.kind,
            counts=_counts(item),
            change=units.change(item.drop) if item.there else units.DASH,
            bound=bound_and_budget(item.upper_bound, item.max_drop, upwards=True)[0],
            allowed=units.points(item.max_drop),
            verdict=item.verdict,
            state=SLICE_STATES[item.verdict],
            needed=""
            if item.needed_units is None
            else f"{about(item.needed_units)} would settle it",
        )
        for item in report.recalls
    ]


def recalls_summary(report: RunReport) -> str:
    """Say what the budget on misses is, and for how many kinds it is proven."""
    found = report.recalls
    certified = sum(item.verdict == "certified" for item in found)
    refuted = sum(item.verdict == "refuted" for item in found)
    place = PLACES.get(report.compared_split or "", "the data")
    words = (
        f"What must not be missed, on {place}. {_meaning(report)} Of {counted(len(found), 'kind')}"
    )
    words += f", {certified or 'none'} {'is' if certified == 1 else 'are'} proven to stay within"
    words += f" the budget, and {refuted or 'none'} to exceed it"
    if (rest := len(found) - certified - refuted) > 0:
        words += f"; {'the other has' if rest == 1 else 'the others have'} too few to tell"
    return f"{words}. Holm's correction keeps a false verdict among all of them as rare as in one."


def missed_words(report: RunReport) -> str | None:
    """Say which kind is missed most where one exceeds its budget; None where none does."""
    worst = max(report.recalls, key=lambda item: item.drop - item.max_drop, default=None)
    if worst is None or worst.drop <= worst.max_drop:
        return None
    return (
        f"the recall of {worst.kind} fell by {points(worst.drop)} ({_counts(worst)}), the budget "
        f"allows {points(worst.max_drop)}"
    )


def unproven_words(report: RunReport) -> str | None:
    """Say what is proven of the worst kind that is not proven; None where all of them are."""
    worst = _unproven(report)
    if worst is None:
        return None
    found = units.metric_of(report.metric)
    one, many = ("row", "rows") if found is None else (found.unit, found.units)
    rows = counted(worst.num_units, one, many)
    holds = verb_for(worst.num_units, "holds", "hold")
    bound = bound_points(max(worst.upper_bound, 0.0), worst.max_drop)
    return (
        f"all that {rows} that {holds} {worst.kind} {verb_for(worst.num_units, 'proves', 'prove')} "
        f"is that its recall fell by at most {bound}, with {100 * worst.confidence:.4g}% "
        f"confidence; the budget is {points(worst.max_drop)}"
    )


def towards_proof(report: RunReport) -> str | None:
    """Say what would prove the worst kind that is not proven; None where all of them are."""
    worst = _unproven(report)
    if worst is None:
        return None
    wanted = f"more {holders(report.metric, worst)}"
    if worst.needed_units is not None:
        wanted = f"{about(worst.needed_units)} {holders(report.metric, worst)} in all"
    return f"give data.certification {wanted} or raise budget.{worst.budget}"


def holders(metric: str | None, item: RecallRecord) -> str:
    """Return what holds one of a kind at least, such as `documents that hold PER`."""
    return f"{units.units_of(metric)} that hold {item.kind}"


def _unproven(report: RunReport) -> RecallRecord | None:
    return next((item for item in report.recalls if item.verdict != "certified"), None)


def _meaning(report: RunReport) -> str:
    budgets = {item.budget for item in report.recalls}
    if budgets == {"max_missed"}:
        return "What is there is what the original found."
    if budgets == {"max_recall_drop"}:
        return "What is there is what the labels say."
    return "What is there is what the original found (max_missed) or what the labels say."


def _counts(item: RecallRecord) -> str:
    if item.budget == "max_missed":
        return f"{item.there - item.after:,} of {item.there:,} missed"
    return f"{item.after:,} of {item.there:,} found, {item.before:,} by the original"
