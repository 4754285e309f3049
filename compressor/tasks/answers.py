"""Answers to questions: how right their words are.

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

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class GoldAnswer(NamedTuple):
    """A right answer: its text, and the character of the context that it begins with."""

    text: str
    start: int


Gold = tuple[GoldAnswer, ...]  # of one question; empty where the context holds no answer


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
