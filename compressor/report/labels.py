"""Finds a place in a chart for each label, so that none covers a marker or another label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FONT_WIDTH, FONT_HEIGHT = 6.9, 16.0  # of one character, estimated a little wide


@dataclass(frozen=True)
class Label:
    """The text beside a marker, or beside several that coincide."""

    text: str
    x: float
    y: float
    anchor: str  # SVG's text-anchor


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Return width times height."""
        return (self.right - self.left) * (self.bottom - self.top)

    def overlap(self, other: Box) -> float:
        """Return the area that two rectangles share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def place_label(
    text: str, x: float, y: float, gap: float, *, taken: Sequence[Box], plot: Box
) -> tuple[Label, Box]:
    """Return the label where it hides least of what is `taken`, with its box.

    It stands at least `gap` away from (`x`, `y`), beside it if possible, and inside `plot`.
    """
    width, half = len(text) * FONT_WIDTH, FONT_HEIGHT / 2
    candidates = []
    for shift in (0.0, FONT_HEIGHT, 2 * FONT_HEIGHT, 3 * FONT_HEIGHT):
        for text_x, middle, anchor in (
            (x + gap, y - shift, "start"),
            (x + gap, y + shift, "start"),
            (x - gap, y - shift, "end"),
            (x - gap, y + shift, "end"),
            (x, y - gap - 6 - shift, "middle"),
            (x, y + gap + 6 + shift, "middle"),
        ):
            left = text_x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            box = Box(left, middle - half, left + width, middle + half)
            outside = box.area - box.overlap(plot)
            cost = sum(box.overlap(other) for other in taken) + 10 * outside + shift
            label = Label(text, round(text_x, 1), round(middle, 1), anchor)
            candidates.append((round(cost, 6), label, box))
    _, label, box = min(candidates, key=lambda item: item[0])  # the first of the cheapest
    return label, box
