"""Tokens for the places of a text where a mask token stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .words import show

TOP = 5  # tokens that are kept of each place, as many as transformers' pipeline gives
_MOST_BYTES = 1 << 28  # of the logits of rows that are read together


class Filled(TypedDict):
    """A token for a hidden place, as transformers' pipeline gives it."""

    score: float
    token: int
    token_str: str
    sequence: str


def require_mask(tokenizer: Any, text: str, is_mask: NDArray[np.bool_]) -> None:
    """Raise `ValueError` where a text of a user holds no mask token among those that are read."""
    if not is_mask.any():
        raise ValueError(
            f"the text {show(text)} holds no {tokenizer.mask_token} among the tokens that "
            f"are read; write it where a word is to be filled in"
        )


def rows_together(tokens: int, vocabulary: int) -> int:
    """Return of how many rows of so many tokens the logits take at most 256 MiB, one or more."""
    return max(1, _MOST_BYTES // (4 * tokens * vocabulary))


def likeliest(
    logits: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    """Return the likeliest tokens, at most 5, their probabilities, and the log of the total.

    `logits` has shape `(num_places, vocabulary)`; the likeliest token comes first.
    """
    vocabulary = logits.shape[1]
    highest = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - highest, dtype=np.float32).sum(axis=1, dtype=np.float64)
    log_total = highest[:, 0] + np.log(total)  # (num_places,)
    count = min(TOP, vocabulary)
    best = np.argpartition(-logits, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(logits, best, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(best, order, axis=1).astype(np.int64)
    top_logits = np.take_along_axis(logits, top, axis=1)
    return top, np.exp(top_logits - log_total[:, None]).astype(np.float32), log_total


def fill(
    tokenizer: Any,
    ids: NDArray[np.int64],
    masks: Sequence[int] | NDArray[np.int64],
    top: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> list[list[Filled]]:
    """Return the likeliest tokens of each mask token of one text, with the text that each makes.

    `ids` are those of the text, `masks` the places of its mask tokens, `top` and `scores`, shape
    `(num_masks, count)`, what `likeliest` gives there.
    """
    is_single = len(masks) == 1
    found = []
    for place, tokens, chances in zip(masks, top.tolist(), scores.tolist(), strict=True):
        filled = []
        for token, score in zip(tokens, chances, strict=True):
            whole = ids.copy()
            whole[place] = token
            # Where other places are still hidden, their mask tokens have to stay.
            kept = whole[whole != tokenizer.pad_token_id]
            text = tokenizer.decode(kept, skip_special_tokens=is_single)
            filled.append(
                Filled(score=score, token=token, token_str=tokenizer.decode([token]), sequence=text)
            )
        found.append(filled)
    return found
