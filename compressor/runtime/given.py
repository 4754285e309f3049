"""What a user of an artifact gives, as a list of texts; anything that is none is refused.

A model predicts for whatever it is given, so a text that is no text would come back with a label
and a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from .examples import Words
from .words import counted, show

_PAIR = 2
_EITHER = "a text or a pair of texts"


def given_texts(value: Any, *, pairs: bool | None) -> list[str] | list[tuple[str, str]]:
    """Return texts, or pairs of texts, as a list.

    `pairs` says which of them the model reads, None where that is not known. Raises `ValueError`
    that names the first example which will not do.
    """
    found = [_text(item, f"example {place}", pairs) for place, item in enumerate(listed(value))]
    texts = [item for item in found if isinstance(item, str)]
    both = [item for item in found if isinstance(item, tuple)]
    if texts and both:
        raise ValueError("the examples are texts and pairs of texts; give one kind in a call")
    return texts or both


def given_documents(value: Any) -> list[str | Words]:
    """Return texts, and lists of words, as a list.

    Raises `ValueError` that names the first example which will not do.
    """
    return [_document(item, f"example {place}") for place, item in enumerate(listed(value))]


def given_questions(value: Any) -> list[tuple[str, str]]:
    """Return pairs of a question and its context as a list.

    An example is such a pair, or `{"question": ..., "context": ...}`. Raises `ValueError` that
    names the first example which will not do.
    """
    return [_question(item, f"example {place}") for place, item in enumerate(listed(value))]


def listed(value: Any) -> list[Any]:
    """Return examples as a list; raises `ValueError` for what is none."""
    if isinstance(value, str | bytes | bytearray):
        kind = "string" if isinstance(value, str) else "row of bytes"
        raise ValueError(f"give a list with at least one text, image or sound, not a bare {kind}")
    if isinstance(value, Mapping | Set) or not isinstance(value, Iterable):
        raise ValueError(
            f"give a list with at least one text, image or sound, got {kind_of(value)}"
        )
    if isinstance(value, np.ndarray) and value.ndim == 0:
        raise ValueError(
            "give a list with at least one text, image or sound, got an array without axes"
        )
    items = list(value)
    if not items:
        raise ValueError("give a list with at least one text, image or sound, got an empty one")
    return items


def _text(item: Any, place: str, pairs: bool | None) -> str | tuple[str, str]:
    parts = item.tolist() if isinstance(item, np.ndarray) else item
    if isinstance(parts, str):
        if pairs:
            raise ValueError(
                f"{place}: this model reads pairs of texts, as (first, second), got {show(parts)}"
            )
        return _characters(parts, place)
    is_pair = isinstance(parts, list | tuple) and len(parts) == _PAIR
    if not is_pair or not all(isinstance(part, str) for part in parts):
        allowed = "a pair of texts" if pairs else "a text" if pairs is False else _EITHER
        if is_pair and pairs is not False:
            which, part = next(
                (which, part)
                for which, part in zip(("first", "second"), parts, strict=True)
                if not isinstance(part, str)
            )
            raise ValueError(f"{place}: must be {allowed}, and the {which} is {shown(part)}")
        raise ValueError(f"{place}: must be {allowed}, got {shown(item)}")
    if pairs is False:
        raise ValueError(
            f"{place}: this model reads single texts, got a pair; join the two as the training "
            f"data did, or give them one after the other"
        )
    return _characters(parts[0], place), _characters(parts[1], place)


def _document(item: Any, place: str) -> str | Words:
    if isinstance(item, Words):
        return item
    parts = item.tolist() if isinstance(item, np.ndarray) else item
    if isinstance(parts, str):
        return _characters(parts, place)
    if not isinstance(parts, list | tuple) or not parts:
        raise ValueError(f"{place}: must be a text or a list of words, got {shown(item)}")
    for number, word in enumerate(parts):
        if not isinstance(word, str):
            raise ValueError(
                f"{place}: must be a text or a list of words, and word {number} is {shown(word)}"
            )
    return Words(tuple(_characters(word, place) for word in parts))


_QUESTION = ("question", "context")


def _question(item: Any, place: str) -> tuple[str, str]:
    parts: Any = item.tolist() if isinstance(item, np.ndarray) else item
    if isinstance(parts, Mapping):
        if set(parts) != set(_QUESTION):
            keys = ", ".join(map(str, parts)) or "none"
            raise ValueError(f"{place}: must have the keys question and context, got {keys}")
        parts = [parts[key] for key in _QUESTION]
    is_pair = isinstance(parts, list | tuple) and len(parts) == _PAIR
    if not is_pair or not all(isinstance(part, str) for part in parts):
        raise ValueError(
            f"{place}: must be a question and a context, as {{'question': ..., 'context': ...}} or "
            f"a pair of texts, got {shown(item)}"
        )
    return _characters(parts[0], place), _characters(parts[1], place)


def _characters(text: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: half of a surrogate pair is no character") from error
    return str(text)


def shown(value: Any) -> str:
    """Return a value, or of what kind it is, for an error."""
    return show(value) if isinstance(value, str | int | float | None) else kind_of(value)


def kind_of(value: Any) -> str:
    """Return the type of a value, and of a list how long it is."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {counted(len(value), 'entry', 'entries')}"
    return type(value).__name__
