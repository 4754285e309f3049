"""How unlike groups fared, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compressor.measurements import GapRecord, RunReport
from compressor.report import units
from compressor.report.slices_and_flips import PLACES, SLICE_STATES
from compressor.words import bound_points, points


@dataclass(frozen=True)
class GroupRow:
    """One group as text."""

    name: str
    examples: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class GapView:
    """The groups of one column, and how unlike they are."""

    column: str
    summary: str
    groups: tuple[GroupRow, ...]
    difference_before: str
    difference_after: str
    ratio_before: str
    ratio_after: str
    gap: str
    bounds: str
    allowed: str
    verdict: str  # empty without a budget
    state: str


def gap_views(report: RunReport) -> Iterator[GapView]:
    """Yield what to show of each entry of `budget.slices` with two groups or more."""
    for item in report.gaps:
        yield GapView(
            column=item.column,
            summary=_summary(report, item),
            groups=tuple(
                GroupRow(
                    name=group.name,
                    examples=f"{group.num_examples:,}",
                    before=_rate(group.before),
                    after=_rate(group.after),
                    change=units.change(-group.change),
                )
                for group in item.groups
            ),
            difference_before=points(item.difference_before),
            difference_after=points(item.difference_after),
            ratio_before=_ratio(item.ratio_before),
            ratio_after=_ratio(item.ratio_after),
            gap=units.points(item.gap),
            bounds=f"{_least(item)} to {_most(item)}",
            allowed="" if item.max_gap is None else points(item.max_gap),
            verdict=item.verdict or "",
            state="quiet" if item.verdict is None else SLICE_STATES[item.verdict],
        )


def worst_words(report: RunReport) -> str | None:
    """Say which groups are proven to have fared too unlike; None where none are."""
    refuted = [item for item in report.gaps if item.verdict == "refuted"]
    worst = max(refuted, key=lambda item: item.gap, default=None)
    if worst is None or worst.max_gap is None:
        return None
    return (
        f"the error rate of {worst.groups[0].name} rose by {points(worst.gap)} more than that of "
        f"{worst.groups[-1].name}, {points(worst.max_gap)} are allowed (proven: at least "
        f"{_least(worst)})"
    )


def _summary(report: RunReport, item: GapRecord) -> str:
    place = PLACES.get(report.compared_split or "", "the data")
    more, less = item.groups[0], item.groups[-1]
    words = (
        f"Error rates of the groups of {item.column}, on {place}. That of {more.name} changed by "
        f"{points(item.gap)} more than that of {less.name}"
    )
    sure = f"{100 * item.confidence:g}%"
    found = f"{words}; with {sure} confidence no two groups differ by more than {_most(item)}"
    if item.lower_bound == 0:
        return f"{found}, and it is not proven that any two differ."
    return f"{found}, and some two by at least {_least(item)}, corrected for the number of pairs."


def _most(item: GapRecord) -> str:
    return bound_points(item.upper_bound, _budget(item))


def _least(item: GapRecord) -> str:
    return bound_points(item.lower_bound, _budget(item), upwards=False)


def _budget(item: GapRecord) -> float:
    return item.gap if item.max_gap is None else item.max_gap


def _rate(value: float) -> str:
    return f"{100 * value:.2f}%"


def _ratio(value: float | None) -> str:
    return units.DASH if value is None else f"{value:.3f}"
