"""Which answers changed, for a person to read: the examples that turned wrong or right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compressor.report import units

MAX_SHOWN = 25  # of the flips; who wants to read more of them takes report.json
MAX_CHARACTERS = 240

_MARKS = {"lost": "✕ now wrong", "won": "✓ now right", "changed": "≠ changed"}
_PLACES = {
    "certification": "the certification split, which no step of the run had seen",
    "search": "the search split, which the gates and all choices were made on",
}


@dataclass(frozen=True)
class FlipRow:
    """One example whose answer changed; confidences are per cent as text."""

    kind: str
    mark: str
    row: str
    text: str  # empty for an image, and where the report must not quote
    label: str
    before: str
    before_confidence: str
    after: str
    after_confidence: str


@dataclass(frozen=True)
class Flips:
    """The changed answers: in one sentence, the worst of them, and what is not shown."""

    summary: str
    rows: tuple[FlipRow, ...]
    note: str
    has_labels: bool


def flips_view(data: dict[str, Any]) -> Flips | None:
    """Return what to show of `flips`; None when no compressed model was scored."""
    split, found = data["compared_split"], data["flips"]
    if split is None:
        return None
    return Flips(
        summary=_summary(found, split),
        rows=tuple(_row(item) for item in _shown(found)),
        note=_note(found),
        has_labels=any(item["kind"] != "changed" for item in found),
    )


def _shown(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first flips, with a share of those that became right where there is room."""
    if len(found) <= MAX_SHOWN:
        return found
    won = [item for item in found if item["kind"] == "won"]
    lost = [item for item in found if item["kind"] != "won"]
    room = max(MAX_SHOWN - len(lost), MAX_SHOWN // 5)
    return lost[: MAX_SHOWN - min(room, len(won))] + won[:room]


def _summary(found: list[dict[str, Any]], split: str) -> str:
    place = f"On {_PLACES.get(split, f'the {split} split')}"
    if not found:
        return f"{place}, no answer turned wrong and none turned right."
    changed = sum(item["kind"] == "changed" for item in found)
    if changed:
        return f"{place}, {_count(changed, 'answer')} changed. The surest of the old answers first."
    lost = sum(item["kind"] == "lost" for item in found)
    return (
        f"{place}, {_count(lost, 'answer')} turned wrong and {len(found) - lost:,} turned right. "
        f"Those come first whose right label lost most probability."
    )


def _count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def _note(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    note = "Rows are counted from 0 in the split's source."
    if len(found) > MAX_SHOWN:
        note = f"{MAX_SHOWN} of {len(found):,} are shown; all are in report.json. {note}"
    return note


def _row(item: dict[str, Any]) -> FlipRow:
    text = item["text"] or ""
    if len(text) > MAX_CHARACTERS:
        text = text[: MAX_CHARACTERS - 1].rstrip("… ") + "…"
    return FlipRow(
        kind=item["kind"],
        mark=_MARKS[item["kind"]],
        row=f"{item['row']:,}",
        text=text,
        label=units.DASH if item["label"] is None else item["label"],
        before=item["before"],
        before_confidence=units.percent(item["before_confidence"]),
        after=item["after"],
        after_confidence=units.percent(item["after_confidence"]),
    )
