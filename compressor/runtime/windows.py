"""Windows over a document with more tokens than a model reads at once, and where they meet.

Windows overlap, so that every word is read with what stands around it. Each token's output is taken
from one window: two neighbours meet in the middle of what both read, at the beginning of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_OVERLAP = 4  # a window shares this part of its tokens, one in so many, with the one before


class Window(NamedTuple):
    """The tokens from `start` to `end` (not included) of a document, without special tokens."""

    start: int
    end: int


def without_padding(
    array: NDArray[np.float32], mask: NDArray[np.int64], owners: Sequence[int], count: int
) -> list[NDArray[np.float32]]:
    """Return the outputs of all tokens of each of `count` examples, special tokens included.

    `array`, shape `(rows, tokens, ...)`, holds a row for each window, `owners` the example that it
    belongs to; `mask`, shape `(rows, tokens)`, is 0 at padding.
    """
    found: list[list[NDArray[np.float32]]] = [[] for _ in range(count)]
    for owner, values, kept in zip(owners, array, mask != 0, strict=True):
        found[owner].append(values[kept])
    return [np.concatenate(parts) for parts in found]


def windows_of(num_tokens: int, room: int) -> list[Window]:
    """Return windows of at most `room` tokens that cover a document, in its order.

    All but a document's only window are `room` tokens long. Raises `ValueError` without room.

    >>> [tuple(window) for window in windows_of(10, 4)]
    [(0, 4), (3, 7), (6, 10)]
    """
    if room < 1:
        raise ValueError("a window without room for a token covers nothing")
    if num_tokens <= room:
        return [Window(0, num_tokens)]
    step = room - room // _OVERLAP
    starts = [*range(0, num_tokens - room, step), num_tokens - room]
    return [Window(start, start + room) for start in starts]


def meeting_points(windows: Sequence[Window], words: NDArray[np.int64]) -> list[int]:
    """Return the token from which on each window but the first is taken in place of the one before.

    `words`, shape `(num_tokens,)`, are the words that tokens belong to: neighbours meet at the
    beginning of a word, so that its pieces come from one window, unless a word is longer than what
    both read.

    >>> meeting_points([Window(0, 6), Window(3, 9)], np.array([0, 1, 2, 3, 4, 4, 4, 5, 6]))
    [4]
    """
    points = []
    for before, after in pairwise(windows):
        middle = (after.start + before.end) // 2
        shared = range(after.start + 1, before.end + 1)
        begins = [at for at in shared if at == len(words) or words[at] != words[at - 1]]
        points.append(min(begins, key=lambda at: (abs(at - middle), at), default=middle))
    return points


def parts_of(windows: Sequence[Window], words: NDArray[np.int64]) -> list[Window]:
    """Return the tokens that are taken from each window; together they are the document."""
    points = [windows[0].start, *meeting_points(windows, words), windows[-1].end]
    return [Window(start, end) for start, end in pairwise(points)]
