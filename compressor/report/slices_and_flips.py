"""What compression changed, for a person to read: groups of examples that lost, and flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compressor.measurements import Flip, RunReport
from compressor.report import units
from compressor.report.task_words import words_of
from compressor.report.templating import own_picture
from compressor.tasks import ReportWords
from compressor.words import bound_and_budget, counted, points

MAX_SHOWN = 25  # of the flips; who wants to read more of them takes report.json
MAX_CHARACTERS = 240

# The state of the run that has the colour and the mark of each verdict.
SLICE_STATES = {"certified": "passed", "inconclusive": "quiet", "refuted": "failed"}
_MARKS = {"lost": "✕ now wrong", "won": "✓ now right", "changed": "≠ changed"}
PLACES = {
    "certification": "the certification split, which no step of the run had seen",
    "search": "the search split, which the gates and all choices were made on",
}


@dataclass(frozen=True)
class FlipRow:
    """One example whose prediction changed; confidences are per cent as text."""

    kind: str
    mark: str
    row: str
    text: str  # empty for an image, and where the report must not quote
    image: str  # a data URI, empty for a text
    label: str
    before: str
    before_confidence: str
    after: str
    after_confidence: str


@dataclass(frozen=True)
class Flips:
    """The changed predictions: in one sentence, the worst of them, and what is not shown."""

    title: str
    summary: str
    rows: tuple[FlipRow, ...]
    note: str
    has_labels: bool
    header: str  # what `before` and `after` of a row are
    sure: str  # and what the figure beside each is


def flips_view(report: RunReport) -> Flips | None:
    """Return what to show of `flips`; None when no compressed model was scored."""
    split, found = report.compared_split, report.flips
    if split is None:
        return None
    words = words_of(report)
    return Flips(
        title=words.flips_title,
        summary=_summary(found, split, words),
        rows=tuple(_row(item, words) for item in _shown(found)),
        note=_note(found),
        has_labels=any(item.kind != "changed" for item in found),
        header=words.flips_header,
        sure=words.flips_sure,
    )


@dataclass(frozen=True)
class SliceRow:
    """One slice; `low`, `drop`, `high` and `budget` place its interval on an axis from 0 to 100."""

    name: str
    examples: str
    change: str
    bound: str
    budget_text: str
    verdict: str
    state: str
    counts: str
    low: float
    drop: float
    high: float
    budget: float
    zero: float


def slice_rows(report: RunReport) -> list[SliceRow]:
    """Return the slices, worst first, on one axis of points lost."""
    found = report.slices
    if not found:
        return []
    start: float = min(min(item.lower_bound for item in found), 0.0)
    end: float = max(max(max(item.upper_bound, item.max_drop) for item in found), start + 1e-9)

    def place(value: float) -> float:
        return round(100 * (value - start) / (end - start), 2)

    return [
        SliceRow(
            name=item.name,
            examples=f"{item.num_examples:,}",
            change=units.change(item.drop),
            bound=bound_and_budget(item.upper_bound, item.max_drop, upwards=True)[0],
            budget_text=units.points(item.max_drop),
            verdict=item.verdict,
            state=SLICE_STATES[item.verdict],
            counts=f"{item.losses:,} lost, {item.wins:,} won",
            low=place(item.lower_bound),
            drop=place(item.drop),
            high=place(item.upper_bound),
            budget=place(item.max_drop),
            zero=place(0.0),
        )
        for item in found
    ]


def slices_summary(report: RunReport) -> str:
    """Say what the slices are held against, and how many of them are proven to lose more."""
    found = report.slices
    refuted = sum(item.verdict == "refuted" for item in found)
    certified = sum(item.verdict == "certified" for item in found)
    limit = found[0].max_drop
    place = PLACES.get(report.compared_split or "", "the data")
    metric = units.metric_of(report.metric)
    of_numbers = metric is not None and metric.is_fine
    name = units.metric_words(report.metric) if of_numbers else "accuracy"
    lose, what = "lose", f"{points(limit)} of {name}"
    if units.counts_changes(
        report.metric
    ):  # without labels a changed prediction is no loss that is known
        lose, what = "change", f"{100 * limit:.4g}% of their predictions"
    words = (
        f"Groups of examples judged by themselves, on {place}. Of "
        f"{counted(len(found), 'slice')}, {refuted or 'none'} {'are' if refuted > 1 else 'is'} "
        f"proven to {lose} more than {what}, and {certified or 'none'} to {lose} less"
    )
    if (rest := len(found) - refuted - certified) > 0:
        others = "the other has" if rest == 1 else "the others have"
        words += f"; {others} too few examples to tell"
    by = "Bonferroni's" if of_numbers else "Holm's"
    return f"{words}. {by} correction keeps a false verdict among all of them as rare as in one."


def _shown(found: Sequence[Flip]) -> Sequence[Flip]:
    """Return the first flips, with a share of those that became right where there is room."""
    if len(found) <= MAX_SHOWN:
        return found
    won = [item for item in found if item.kind == "won"]
    lost = [item for item in found if item.kind != "won"]
    room = max(MAX_SHOWN - len(lost), MAX_SHOWN // 5)
    return lost[: MAX_SHOWN - min(room, len(won))] + won[:room]


def _summary(found: Sequence[Flip], split: str, words: ReportWords) -> str:
    place = f"On {PLACES.get(split, f'the {split} split')}"
    if all(item.kind == "changed" for item in found) and (found or words.flips_moved):
        what, one, several = words.changed
        changed = f"{place}, {_count(len(found), what)} {one if len(found) == 1 else several}"
        if not found:
            return f"{changed} than by the untouched checkpoint."
        return f"{changed}. {words.flips_order}"
    if not found:
        return f"{place}, no {words.changed[0]} turned wrong and none turned right."
    lost = sum(item.kind == "lost" for item in found)
    won = len(found) - lost
    return (
        f"{place}, {_count(lost, words.changed[0])} turned wrong and "
        f"{_count(won, words.changed[0])} turned right. {words.flips_worst}"
    )


def _count(amount: int, noun: str) -> str:
    return f"{f'{amount:,}' if amount else 'no'} {noun}" + ("" if amount == 1 else "s")


def _note(found: Sequence[Flip]) -> str:
    if not found:
        return ""
    note = "Rows are counted from 0 in the split's source."
    if len(found) > MAX_SHOWN:
        note = f"{MAX_SHOWN} of {len(found):,} are shown; all are in report.json. {note}"
    return note


def _cut(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        return text[: MAX_CHARACTERS - 1].rstrip("… ") + "…"
    return text


def _row(item: Flip, words: ReportWords) -> FlipRow:
    mark = _MARKS[item.kind]
    if words.flips_moved:
        mark = f"≠ moved {units.number(item.lost_confidence)}"
    figure = units.number if words.flips_moved else units.percent
    sure = ("", "")
    if words.flips_sure:
        sure = figure(item.before_confidence), figure(item.after_confidence)
    before, after = item.before, item.after
    if words.prediction_is_text:
        before, after = _cut(before), _cut(after)
    return FlipRow(
        kind=item.kind,
        mark=mark,
        row=f"{item.row:,}",
        text=_cut(item.text or ""),
        image=own_picture(item.image),
        label=units.DASH if item.label is None else item.label,
        before=before,
        before_confidence=sure[0],
        after=after,
        after_confidence=sure[1],
    )
