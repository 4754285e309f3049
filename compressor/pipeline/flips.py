"""Which examples the compressed model answers differently: how a person sees what was lost.

A drop of one point is a number; nine sentences that a model now gets wrong are something that one
can judge. So the report names every example that turned wrong, or right, the worst first.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.data import Dataset
from compressor.measurements import Flip, FlipKind, Score
from compressor.tasks import Example, cosines

# A report of ten thousand flips should stay a file that one can open.
MAX_TEXT = 400  # characters of each text
MAX_IMAGES = 50  # flips that have their picture, the worst
THUMBNAIL = 64  # pixels of its longer side, at most


def find_flips(
    split: Dataset, before: Score, after: Score, label_names: Sequence[str], *, with_examples: bool
) -> tuple[Flip, ...]:
    """Return the flips between two models that answered `split`, those that lost most first.

    Of embeddings, every text is one whose nearest neighbour is another text now; its confidences
    are the cosine similarities to these neighbours, and those come first whose vector moved most.

    An example that both models answer wrongly is no flip, whatever they answer. Without labels
    every changed answer is one. `with_examples` decides whether texts are quoted and images shown.
    """
    if before.vectors is not None and after.vectors is not None:
        return _moved(split, before, after, with_examples=with_examples)
    changed = before.outcomes != after.outcomes
    right = before.outcomes if split.labels is None else split.labels
    changed &= (before.outcomes == right) | (after.outcomes == right)
    old, new = _confidences(before, before.outcomes), _confidences(after, after.outcomes)
    lost = [
        None if first is None or second is None else first - second
        for first, second in zip(
            _confidences(before, right), _confidences(after, right), strict=True
        )
    ]
    found = [
        Flip(
            kind=_kind(split, index, before),
            row=int(split.rows[index]),
            text=shown_text(split.examples[index]) if with_examples else None,
            label=None if split.labels is None else label_names[split.labels[index]],
            before=label_names[before.outcomes[index]],
            after=label_names[after.outcomes[index]],
            before_confidence=old[index],
            after_confidence=new[index],
            lost_confidence=lost[index],
        )
        for index in np.flatnonzero(changed).tolist()
    ]
    found.sort(key=_rank)
    if not with_examples:
        return tuple(found)
    places = {row: index for index, row in enumerate(split.rows.tolist())}
    return tuple(
        dataclasses.replace(flip, image=thumbnail(split.examples[places[flip.row]]))
        if rank < MAX_IMAGES
        else flip
        for rank, flip in enumerate(found)
    )


def _moved(split: Dataset, before: Score, after: Score, *, with_examples: bool) -> tuple[Flip, ...]:
    """Return the texts that have another nearest neighbour now, those that moved most first."""
    assert before.vectors is not None
    assert after.vectors is not None
    similarities = cosines(before.vectors, after.vectors)  # (num_texts,)
    rows = np.flatnonzero(before.outcomes != after.outcomes)
    near = [
        cosines(score.vectors[rows], score.vectors[score.outcomes[rows]]).tolist()
        for score in (before, after)
        if score.vectors is not None
    ]

    def named(index: int) -> str:
        text = shown_text(split.examples[index]) if with_examples else None
        return f"row {split.rows[index]}" if text is None else text

    found = [
        Flip(
            kind="changed",
            row=int(split.rows[index]),
            text=shown_text(split.examples[index]) if with_examples else None,
            label=None,
            before=named(before.outcomes[index]),
            after=named(after.outcomes[index]),
            before_confidence=old,
            after_confidence=new,
            lost_confidence=1 - float(similarities[index]),
        )
        for index, old, new in zip(rows.tolist(), *near, strict=True)
    ]
    return tuple(sorted(found, key=_rank))


def _kind(split: Dataset, index: int, before: Score) -> FlipKind:
    if split.labels is None:
        return "changed"
    return "lost" if before.outcomes[index] == split.labels[index] else "won"


def _rank(flip: Flip) -> tuple[bool, float, int]:
    """Order what was lost before what was won, and in both the largest difference first."""
    won = flip.kind == "won"
    difference = flip.lost_confidence or 0.0
    return won, difference if won else -difference, flip.row


def _confidences(score: Score, classes: NDArray[np.int64]) -> list[float | None]:
    """Return the probability that each example's class in `classes` got."""
    if score.probabilities is None:
        return [None] * len(classes)
    chosen: list[float | None] = score.probabilities[np.arange(len(classes)), classes].tolist()
    return chosen


def shown_text(example: Example) -> str | None:
    """Return a text, cut when it is long, a pair on two lines; None for an image."""
    if isinstance(example, np.ndarray):
        return None
    text = example if isinstance(example, str) else "\n".join(example)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1].rstrip() + "…"


def thumbnail(example: Example) -> str | None:
    """Return a small PNG of an image as a data URI; None for a text."""
    if not isinstance(example, np.ndarray):
        return None
    picture = Image.fromarray(example.squeeze())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))  # never enlarges
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
