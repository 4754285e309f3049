"""What is hidden of an example to see what a model's prediction rests on.

An occlusion hides one piece of an example after the other and looks how a number of the prediction
moves. Pieces are those that the untouched checkpoint reads: its tokens, by the characters that they
stand for, or rectangles of an image. So a model with another tokenizer is asked about the same
pieces: whatever it reads at those characters is hidden together.

A token is replaced by the mask token where there is one. That is what encoders saw in place of a
word while they were pretrained; a deleted word, a zero vector or padding inside a text is an input
that no training showed, whose effect is mixed with that of the word itself. The unknown token is
the next best, and tokens are removed where a tokenizer has neither. Patches of an image get the
image's mean colour.

Ref: Zeiler & Fergus 2014, ECCV (occlusion); Li et al. 2016, arXiv:1612.08220 (erasure of words);
Hase et al. 2021, arXiv:2106.00786, section 4 (mask tokens beside other replacements).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compressor.tasks.examples import Example, image_of

Hiding = Literal["mask token", "unknown token", "removal", "mean colour"]
CELLS = 7  # of an image, along each side


@dataclass(frozen=True)
class Piece:
    """The characters `start` to `end` (not included) of the text number `text` of an example."""

    text: int
    start: int
    end: int


@dataclass(frozen=True)
class Cell:
    """A rectangle of an image, in pixels; `bottom` and `right` are not included."""

    top: int
    left: int
    bottom: int
    right: int


Part = Piece | Cell


@dataclass(frozen=True)
class ReadText:
    """The tokens of an example as a model reads them, special tokens included.

    `ids` and `types`, shape `(num_tokens,)`, go into the model (`types` is None where it reads
    none); `texts`, of the same shape, is the text that a token is of, -1 for special tokens and
    prompts; `offsets`, shape `(num_tokens, 2)`, are its characters in that text.
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64] | None
    texts: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Return the characters of the tokens, in their order; tokens that share some are one."""
        spans = zip(self.texts.tolist(), self.offsets.tolist(), strict=True)
        return without_overlap(
            Piece(text, start, end) for text, (start, end) in spans if text >= 0 and start < end
        )

    def tokens_of(self, piece: Piece) -> NDArray[np.bool_]:
        """Return which tokens stand for any of the characters, shape `(num_tokens,)`."""
        start, end = self.offsets.T
        return np.asarray((self.texts == piece.text) & (start < piece.end) & (end > piece.start))


def without_overlap(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Return pieces of which those that share characters with the one before are one with it.

    Several tokens may stand for one character, as bytes of it do.

    >>> without_overlap([Piece(0, 0, 1), Piece(0, 0, 1), Piece(0, 1, 3)])
    (Piece(text=0, start=0, end=1), Piece(text=0, start=1, end=3))
    """
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.text == piece.text and piece.start < last.end:
            start, end = min(last.start, piece.start), max(last.end, piece.end)
            found[-1] = Piece(piece.text, start, end)
        else:
            found.append(piece)
    return tuple(found)


def hidings_of(tokenizer: Any, *, removes: bool) -> tuple[Hiding, ...]:
    """Return how tokens can be hidden from models with this tokenizer, the best way first.

    `removes` says whether tokens may be left out. An unknown token that is also what ends a text,
    as GPT-2's, is none. Nothing can be hidden where a tokenizer does not say which characters a
    token stands for.
    """
    if not tokenizer.is_fast:
        return ()
    found: list[Hiding] = []
    if tokenizer.mask_token_id is not None:
        found.append("mask token")
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls")}
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in others:
        found.append("unknown token")
    return (*found, "removal") if removes else tuple(found)


def hiding_id(tokenizer: Any, hiding: Hiding) -> int:
    """Return the id that stands in place of a hidden token."""
    return int(tokenizer.mask_token_id if hiding == "mask token" else tokenizer.unk_token_id)


def joined(pieces: Sequence[Piece], most: int) -> tuple[Piece, ...]:
    """Return at most `most` pieces, neighbours of one text put together where there are more.

    >>> joined([Piece(0, 0, 2), Piece(0, 3, 5), Piece(0, 6, 7)], 2)
    (Piece(text=0, start=0, end=5), Piece(text=0, start=6, end=7))
    """
    if len(pieces) <= most:
        return tuple(pieces)
    texts = sorted({piece.text for piece in pieces})
    # Each text may end with fewer than the others have.
    size = math.ceil(len(pieces) / max(1, most - len(texts) + 1))
    found = []
    for text in texts:
        own = [piece for piece in pieces if piece.text == text]
        for start in range(0, len(own), size):
            part = own[start : start + size]
            found.append(Piece(text, part[0].start, part[-1].end))
    return tuple(found)


def cells_of(height: int, width: int) -> tuple[Cell, ...]:
    """Return the rectangles of an image, row by row; of a small one as many as it has pixels.

    >>> len(cells_of(224, 224)), cells_of(1, 2)
    (49, (Cell(top=0, left=0, bottom=1, right=1), Cell(top=0, left=1, bottom=1, right=2)))
    """
    rows, columns = (
        np.linspace(0, size, min(CELLS, size) + 1).round().astype(int).tolist()
        for size in (height, width)
    )
    return tuple(
        Cell(top, left, bottom, right)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    )


def changes_of(example: Example, pieces: Sequence[Part]) -> NDArray[np.float64]:
    """Return how much of the input hiding each piece changes, shape `(num_pieces,)`.

    Of a text its characters, of an image how far its pixels are from the mean colour, all together.
    """
    pixels = image_of(example)
    mean = 0.0 if pixels is None else pixels.mean(axis=(0, 1))
    found = np.zeros(len(pieces))
    for place, piece in enumerate(pieces):
        if isinstance(piece, Piece):
            found[place] = piece.end - piece.start
        elif pixels is not None:
            own = pixels[piece.top : piece.bottom, piece.left : piece.right]
            found[place] = np.abs(own - mean).sum()
    return found


def log_softmax(logits: NDArray[Any], axis: int = -1) -> NDArray[np.float64]:
    """Return the logarithms of probabilities, in float64.

    >>> log_softmax(np.array([0.0, 0.0])).round(4).tolist()
    [-0.6931, -0.6931]
    """
    values = logits.astype(np.float64)
    shifted = values - values.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def log_probabilities(logits: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return that of the class in `chosen` for each row of logits, shape `(num_rows,)`.

    It is taken from how far the class lies above all others together, so that predictions of nearly
    1, where `log_softmax` is 0, still differ.

    >>> log_probabilities(np.array([[0.0, 0.0], [40.0, 0.0]]), np.array([0, 0])).tolist()
    [-0.6931471805599453, -4.248354255291589e-18]
    """
    values, rows = logits.astype(np.float64), np.arange(len(logits))
    own = values[rows, chosen]
    others = values.copy()
    others[rows, chosen] = -np.inf
    return log_sigmoid(own - np.logaddexp.reduce(others, axis=1))


def log_sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log(1 / (1 + exp(-x))), without overflow."""
    return np.asarray(-np.logaddexp(0.0, -logits.astype(np.float64)))


def chunks(count: int, size: int) -> Iterable[range]:
    """Yield the numbers below `count`, at most `size` at a time."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))
