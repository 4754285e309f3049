"""Answers to questions: where a model finds them in a context, and how right their words are.

Scores are those of SQuAD 2: words are compared without case, punctuation and articles, with
whichever of the right answers fits best, and "no answer" is right where there is none.

Ref: Rajpurkar et al. 2018, arXiv:1806.03822, and its evaluation script (version 2.0).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compressor.tasks.windows import Window

MOST_TOKENS = 15  # of an answer, as in the pipeline of transformers
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class GoldAnswer(NamedTuple):
    """A right answer: its text, and the character of the context that it begins with."""

    text: str
    start: int


Gold = tuple[GoldAnswer, ...]  # of one question; empty where the context holds no answer


class Candidate(NamedTuple):
    """The tokens `first` to `last` of a context, both of them included; -1 for no answer."""

    score: float
    first: int
    last: int


def normalized(text: str) -> str:
    """Return an answer as it is compared.

    >>> normalized("The  Eiffel-Tower, a landmark.")
    'eiffeltower landmark'
    """
    words = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(words.split())


def _right(gold: Gold) -> list[str]:
    """Return the right answers as they are compared; one without words is none."""
    return [text for item in gold if (text := normalized(item.text))] or [""]


def is_exact(answer: str, gold: Gold) -> bool:
    """Return whether an answer is one of the right ones, `""` where there is none."""
    return normalized(answer) in _right(gold)


def overlap(answer: str, gold: Gold) -> float:
    """Return the F1 of an answer's words with those of the right answer that fits best.

    Where one of the two has no words, it is 1 if neither has, else 0.
    """
    return max(_f1(normalized(answer).split(), right.split()) for right in _right(gold))


def _f1(own: Sequence[str], right: Sequence[str]) -> float:
    if not own or not right:
        return float(own == right)
    shared = sum((Counter(own) & Counter(right)).values())
    return 2 * shared / (len(own) + len(right))


def best_candidates(
    windows: Sequence[Window], logits: Sequence[NDArray[np.float32]], count: int
) -> list[Candidate]:
    """Return the `count` best answers, "no answer" among them, the best first.

    `logits` has for each window an array of shape `(1 + num_tokens, 2)`: the start and the end
    logit of the token that stands for "no answer", then of the tokens of the context. A softmax
    over these tokens makes them probabilities; a span's score is that of its start times that of
    its end. What several windows hold has the best of its scores, and "no answer" the worst: it is
    one only where no window holds one.

    This is how the question-answering pipeline of transformers (before 5) chose, with
    `handle_impossible_answer=True, max_answer_len=15, align_to_words=False`.
    """
    found: dict[tuple[int, int], float] = {}
    nothing = 1.0
    for window, values in zip(windows, logits, strict=True):
        shifted = np.exp(values.astype(np.float64) - values.max(axis=0))
        starts, ends = (shifted / shifted.sum(axis=0)).T
        nothing = min(nothing, float(starts[0] * ends[0]))
        for score, first, last in _best_spans(starts[1:], ends[1:], count):
            place = (window.start + first, window.start + last)
            found[place] = max(found.get(place, 0.0), score)
    spans = [Candidate(score, first, last) for (first, last), score in found.items()]
    spans.sort(key=lambda item: (-item.score, item.first, item.last))
    spans.append(Candidate(nothing, -1, -1))
    return sorted(spans, key=lambda item: -item.score)[:count]


def _best_spans(
    starts: NDArray[np.float64], ends: NDArray[np.float64], count: int
) -> list[Candidate]:
    """Return the best spans of one window; of equals the first."""
    size = len(starts)
    if size == 0:
        return []
    padded = np.concatenate([ends, np.zeros(MOST_TOKENS - 1)])
    # (num_tokens, MOST_TOKENS): the scores of spans of 1, 2, 3, ... tokens from each one on.
    scores = starts[:, None] * np.lib.stride_tricks.sliding_window_view(padded, MOST_TOKENS)
    inside = np.arange(size)[:, None] + np.arange(MOST_TOKENS) < size
    flat = np.where(inside, scores, -1.0).ravel()
    order = np.argsort(-flat, kind="stable")[: min(count, int(inside.sum()))]
    found = []
    for place in order.tolist():
        first, more = divmod(place, MOST_TOKENS)
        found.append(Candidate(float(flat[place]), first, first + more))
    return found
