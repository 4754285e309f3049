"""Where the bytes of the model file are, before and after, as bars told apart by pattern."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from compressor.measurements import RunReport
from compressor.report import units

_NAMES = {
    "embeddings": "embeddings",
    "attention": "attention",
    "feed_forward": "feed-forward",
    "other": "other",
}
WIDTH, LEFT, RIGHT = 560, 60, 8
BAR, GAP = 44, 26
NARROW = 60.0  # a part below this width has no room for its name


@dataclass(frozen=True)
class Part:
    """One part of a bar; `kind` picks its pattern, `label` is empty where it does not fit."""

    kind: str
    x: float
    width: float
    label: str
    title: str


@dataclass(frozen=True)
class Stack:
    """The parts of one model file."""

    name: str
    total: str
    y: float
    end: float  # where the bar ends
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Components:
    """Both bars, and the figures as rows: part, before, after, change."""

    stacks: tuple[Stack, ...]
    kinds: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, str, str], ...]
    description: str
    width: int = WIDTH
    bar: int = BAR
    left: int = LEFT
    height: int = 2 * (BAR + GAP)


def components_view(report: RunReport) -> Components | None:
    """Return the bytes of each part; None where neither end recorded them."""
    found = [
        (name, dataclasses.asdict(record.components))
        for name, record in (("before", report.baseline), ("after", report.final))
        if record is not None and record.components is not None
    ]
    if not found:
        return None
    largest = max(sum(parts.values()) for _, parts in found) or 1
    stacks = [
        _stack(name, parts, (WIDTH - LEFT - RIGHT - 60) / largest, GAP / 2 + index * (BAR + GAP))
        for index, (name, parts) in enumerate(found)
    ]
    by_name = dict(found)
    return Components(
        stacks=tuple(stacks),
        kinds=tuple(_NAMES.items()),
        rows=tuple(_row(kind, by_name) for kind in _NAMES),
        description="; ".join(
            f"{name}: {', '.join(f'{_NAMES[k]} {units.megabytes(parts[k])} MB' for k in _NAMES)}"
            for name, parts in found
        ),
    )


def _stack(name: str, parts: dict[str, int], scale: float, y: float) -> Stack:
    drawn, x = [], float(LEFT)
    for kind, words in _NAMES.items():
        width = parts[kind] * scale
        size = f"{units.megabytes(parts[kind])} MB"
        label = words if width > max(NARROW, 7.5 * len(words)) else ""
        drawn.append(Part(kind, round(x, 1), round(width, 1), label, f"{words}: {size}"))
        x += width
    total = f"{units.megabytes(sum(parts.values()))} MB"
    return Stack(name, total, y, round(x, 1), tuple(drawn))


def _row(kind: str, found: dict[str, dict[str, int]]) -> tuple[str, str, str, str]:
    before, after = (found.get(name, {}).get(kind) for name in ("before", "after"))
    change = units.compared(
        units.ratio(before, after), "smaller", "larger", "same size", counted=True
    )
    sizes = units.megabytes(before), units.megabytes(after)
    return _NAMES[kind], *sizes, change or units.DASH
