"""Flips: the examples that the compressed model predicts differently, the worst first.

A drop of one point is a number; nine sentences that a model now gets wrong are something that one
can judge. So the report names every example that turned wrong, or right, the worst first.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence

from PIL import Image

from compressor.data import Dataset
from compressor.measurements import Flip, Score
from compressor.tasks import Comparison, Example, Task, image_of, texts_of

# A report of ten thousand flips should stay a file that one can open.
MAX_TEXT = 400  # characters of each text
MAX_IMAGES = 50  # flips that have their picture, the worst
THUMBNAIL = 64  # pixels of its longer side, at most


def find_flips(
    task: Task,
    split: Dataset,
    before: Score,
    after: Score,
    label_names: Sequence[str],
    *,
    with_examples: bool,
) -> tuple[Flip, ...]:
    """Return the flips between two models that predicted `split`, those that lost most first.

    The task says which those are. `with_examples` decides whether texts are quoted and images
    shown.
    """
    found = [
        (
            Flip(
                kind=item.kind,
                row=int(split.rows[item.position]),
                text=asked(split, item) if with_examples else None,
                label=item.label,
                before=named(split, item, item.before, with_examples=with_examples),
                after=named(split, item, item.after, with_examples=with_examples),
                before_confidence=item.before_score,
                after_confidence=item.after_score,
                lost_confidence=item.lost,
            ),
            item.position,
        )
        for item in task.flips(before, after, split.truth(), label_names)
    ]
    found.sort(key=lambda flip: _rank(flip[0]))
    return tuple(
        dataclasses.replace(flip, image=thumbnail(split.examples[position]))
        if with_examples and rank < MAX_IMAGES
        else flip
        for rank, (flip, position) in enumerate(found)
    )


def asked(split: Dataset, item: Comparison) -> str | None:
    """Return what two models were asked: the example, or the query that they choose a row of."""
    example = split.examples[item.position]
    if split.groups is None or isinstance(item.before, str):
        return shown_text(example)
    return shown_text(texts_of(example)[0])


def named(split: Dataset, item: Comparison, predicted: str | int, *, with_examples: bool) -> str:
    """Return what a model predicts in words, also where it is another example, by its position.

    Of a pair that is a candidate of the query that was asked, only the other text.
    """
    if isinstance(predicted, str):
        return predicted
    example = split.examples[predicted]
    if split.groups is not None and isinstance(example, tuple):
        query, candidate = example
        example = candidate if query == texts_of(split.examples[item.position])[0] else example
    text = shown_text(example) if with_examples else None
    return f"row {split.rows[predicted]}" if text is None else text


def _rank(flip: Flip) -> tuple[bool, float, int]:
    """Order what was lost before what was won, and in both the largest difference first."""
    won = flip.kind == "won"
    difference = flip.lost_confidence or 0.0
    return won, difference if won else -difference, flip.row


def shown_text(example: Example) -> str | None:
    """Return a text, cut when it is long, a pair on two lines; None for an image."""
    if not (texts := texts_of(example)):
        return None
    text = "\n".join(texts)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1].rstrip() + "…"


def thumbnail(example: Example) -> str | None:
    """Return a small PNG of an image as a data URI; None for a text."""
    if (pixels := image_of(example)) is None:
        return None
    picture = Image.fromarray(pixels.squeeze())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))  # never enlarges
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
