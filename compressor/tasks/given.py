"""What a user of an artifact gives, as a list of examples; anything that is none is refused.

A model predicts for whatever it is given, so a text that is no text, or a picture that is taken for
a list of pictures, would come back with a label and a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.setting_errors import show
from compressor.tasks.examples import Words
from compressor.tasks.pixels import checked_pixels, pixels_of
from compressor.tasks.sound import Sound, samples_of
from compressor.tasks.stored_image import StoredImage
from compressor.words import counted

_PAIR = 2
_EITHER = "a text or a pair of texts"


def given_texts(value: Any, *, pairs: bool | None) -> list[str] | list[tuple[str, str]]:
    """Return texts, or pairs of texts, as a list.

    `pairs` says which of them the model reads, None where that is not known. Raises `ValueError`
    that names the first example which will not do.
    """
    found = [_text(item, f"example {place}", pairs) for place, item in enumerate(_items(value))]
    texts = [item for item in found if isinstance(item, str)]
    both = [item for item in found if isinstance(item, tuple)]
    if texts and both:
        raise ValueError("the examples are texts and pairs of texts; give one kind in a call")
    return texts or both


def given_documents(value: Any) -> list[str | Words]:
    """Return texts, and lists of words, as a list.

    Raises `ValueError` that names the first example which will not do.
    """
    return [_document(item, f"example {place}") for place, item in enumerate(_items(value))]


def given_questions(value: Any) -> list[tuple[str, str]]:
    """Return pairs of a question and its context as a list.

    An example is such a pair, or `{"question": ..., "context": ...}`. Raises `ValueError` that
    names the first example which will not do.
    """
    return [_question(item, f"example {place}") for place, item in enumerate(_items(value))]


def given_images(value: Any) -> list[StoredImage | NDArray[np.uint8]]:
    """Return pictures as a list of uint8 arrays, `(height, width)` or `(height, width, 3)`.

    Raises `ValueError` that names the first example which will not do.
    """
    if _is_picture(value) or (isinstance(value, np.ndarray) and _is_one_array(value)):
        raise ValueError("give a list of images, such as [image], not a bare image")
    return [_image(item, f"example {place}") for place, item in enumerate(_items(value))]


def given_sounds(value: Any) -> list[Sound]:
    """Return sounds as a list, of arrays of samples at the rate that the model reads.

    Raises `ValueError` that names the first example which will not do.
    """
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype != object:
        raise ValueError("give a list of sounds, such as [samples], not the samples of one")
    return [_heard(item, f"example {place}") for place, item in enumerate(_items(value))]


def _heard(item: Any, place: str) -> Sound:
    if isinstance(item, Sound):
        return item
    if isinstance(item, str | bytes | Mapping) or not hasattr(item, "__array__"):
        raise ValueError(f"{place}: must be a sound, as an array of samples, got {_shown(item)}")
    try:
        return Sound(samples_of(np.asarray(item)), None, place)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _items(value: Any) -> list[Any]:
    if isinstance(value, str | bytes | bytearray):
        kind = "string" if isinstance(value, str) else "row of bytes"
        raise ValueError(f"give a list with at least one text, image or sound, not a bare {kind}")
    if isinstance(value, Mapping | Set) or not isinstance(value, Iterable):
        raise ValueError(f"give a list with at least one text, image or sound, got {_kind(value)}")
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
            raise ValueError(f"{place}: must be {allowed}, and the {which} is {_shown(part)}")
        raise ValueError(f"{place}: must be {allowed}, got {_shown(item)}")
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
        raise ValueError(f"{place}: must be a text or a list of words, got {_shown(item)}")
    for number, word in enumerate(parts):
        if not isinstance(word, str):
            raise ValueError(
                f"{place}: must be a text or a list of words, and word {number} is {_shown(word)}"
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
            f"a pair of texts, got {_shown(item)}"
        )
    return _characters(parts[0], place), _characters(parts[1], place)


def _characters(text: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: half of a surrogate pair is no character") from error
    return str(text)


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getexif") and hasattr(value, "convert")  # of Pillow, which may be absent


def _is_one_array(value: NDArray[Any]) -> bool:
    """Return whether an array is one image, or could be: three axes may be a list of grey ones."""
    return value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 2, 3, 4))


def _image(item: Any, place: str) -> StoredImage | NDArray[np.uint8]:
    if isinstance(item, StoredImage):
        return item
    if _is_picture(item):
        try:
            return pixels_of(item)
        except (OSError, ValueError) as error:
            raise ValueError(f"{place}: the image cannot be read ({error})") from error
    if isinstance(item, str | bytes | list | tuple | Mapping) or not hasattr(item, "__array__"):
        raise ValueError(
            f"{place}: must be an image, as an array of uint8 or opened with Pillow, got "
            f"{_shown(item)}"
        )
    try:
        return checked_pixels(np.asarray(item))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _shown(value: Any) -> str:
    return show(value) if isinstance(value, str | int | float | None) else _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {counted(len(value), 'entry', 'entries')}"
    return type(value).__name__
