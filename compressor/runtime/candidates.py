"""Where a model finds answers in a context, by the logits of starts and ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from .questions import Question
from .windows import Window

CANDIDATES = 5  # answers that are given to each question
MOST_TOKENS = 15  # of an answer, as in the pipeline of transformers


class Candidate(NamedTuple):
    """The tokens `first` to `last` of a context, both of them included; -1 for no answer."""

    score: float
    first: int
    last: int


class Answer(TypedDict):
    """One answer, with its characters in the context; `answer` is "" where there is none."""

    answer: str
    start: int
    end: int
    score: float


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


def answers_of(question: Question, candidates: Sequence[Candidate]) -> list[Answer]:
    """Return answers to a question as texts, in the order of the candidates."""
    spans = [question.span(item.first, item.last) for item in candidates]
    return [
        Answer(answer=question.context[start:end], start=start, end=end, score=item.score)
        for (start, end), item in zip(spans, candidates, strict=True)
    ]
