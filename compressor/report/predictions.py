"""The artifact's predictions beside the original's, for the end of a run and for its page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compressor.measurements import PredictionRecord, RunReport
from compressor.report.task_words import words_of
from compressor.report.templating import own_picture
from compressor.words import counted, printable

_MOST = 76  # characters of a text in a line of a terminal


@dataclass(frozen=True)
class PredictionRow:
    """One example and what both models say of it; figures are text."""

    example: str  # the text, or which row it is
    label: str  # in words, empty where nothing says which is right
    image: str  # a data URI, empty for a text
    before: str
    before_score: str
    after: str
    after_score: str
    is_same: bool


@dataclass(frozen=True)
class Predictions:
    """A few examples, with a title and a sentence that says what is shown of them."""

    title: str
    summary: str
    score: str  # what the figure beside each prediction is
    rows: tuple[PredictionRow, ...]


def predictions_view(report: RunReport) -> Predictions | None:
    """Return what to show of `predictions`; None when there was no artifact to ask."""
    if not report.predictions:
        return None
    words = words_of(report)
    rows = tuple(_row(item, has_score=bool(words.score)) for item in report.predictions)
    return Predictions(
        title=f"{words.predictions_title}, original and artifact",
        summary=f"The artifact was loaded as its user would load it. Shown are "
        f"{words.predictions_shown}; the artifact says the same of "
        f"{_of(sum(row.is_same for row in rows), len(rows))}.",
        score=words.score,
        rows=rows,
    )


def prediction_lines(report: RunReport) -> Iterator[str]:
    """Yield the lines that end a run on a terminal; none without an artifact."""
    view = predictions_view(report)
    if view is None:
        return
    yield f"{view.title} ({view.score}):" if view.score else f"{view.title}:"
    for row in view.rows:
        yield f"  {_short(row.example)}" + (f" ({printable(row.label)})" if row.label else "")
        same = "the same" if row.is_same else _short(row.after)
        yield f"    original  {_beside(row.before_score)}{_short(row.before)}"
        yield f"    artifact  {_beside(row.after_score)}{same}"
    if (changed := _changed_words(report)) is not None:
        yield changed


def _changed_words(report: RunReport) -> str | None:
    """Say how many of all rows changed, which a few that are shown cannot tell.

    Where labels say what is right, a row that both models get wrong is no flip, so that those are
    counted which turned wrong or right.
    """
    name, found = report.compared_split, len(report.flips)
    sizes = {split.name: split.num_examples for split in report.splits}
    if name not in sizes:
        return None
    words = words_of(report)
    rows = counted(sizes[name], f"{name} {words.row}")
    if not words.changes_are_rows:
        return f"Among {rows}, {found:,} got {words.another}; the report shows them."
    lost, won = (sum(item.kind == kind for item in report.flips) for kind in ("lost", "won"))
    is_labelled = any(item.label is not None for item in report.predictions)
    if lost or won or (not found and is_labelled and not words.flips_moved):
        wrong, right = (_with_share(count, sizes[name]) for count in (lost, won))
        return f"Of {rows}, {wrong} turned wrong and {right} turned right; the report shows them."
    return (
        f"Of {rows}, {_with_share(found, sizes[name])} got {words.another}; the report shows them."
    )


def _with_share(count: int, whole: int) -> str:
    return f"{count:,}" + (f" ({100 * count / whole:.1f}%)" if count else "")


def _row(item: PredictionRecord, *, has_score: bool) -> PredictionRow:
    return PredictionRow(
        example=f"row {item.row}" if item.text is None else item.text,
        image=own_picture(item.image),
        label="" if item.label is None else f"labelled {item.label}",
        before=item.before,
        before_score=_figure(item.before_score) if has_score else "",
        after=item.after,
        after_score=_figure(item.after_score) if has_score else "",
        is_same=item.before == item.after,
    )


def _figure(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _beside(figure: str) -> str:
    return f"{figure}  " if figure else ""


def _of(count: int, whole: int) -> str:
    return f"{count} of {whole}"


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MOST else line[: _MOST - 1].rstrip() + "…"
