"""What a model reads: a text, a pair of texts, an image, or what else a task makes of rows.

An example of another kind has the property `texts`; everything outside the tasks then counts,
orders and quotes it like any text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.tasks.sound import Sound
from compressor.tasks.stored_image import StoredImage, digest_of

_EASY_TO_READ = 80  # characters


class HasTexts(Protocol):
    """An example of a task's own: for instance a sentence that is given word by word."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the texts that a model reads of it."""


@dataclass(frozen=True)
class Words:
    """A document that is given word by word."""

    words: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the words as one text, with a space between them."""
        return (" ".join(self.words),)


# A text, a pair of texts, an image as uint8 of shape (height, width) or (height, width, 3), or an
# example of a task's own.
Example = str | tuple[str, str] | NDArray[np.uint8] | HasTexts


def texts_of(example: Example) -> tuple[str, ...]:
    """Return the texts of an example; none of an image."""
    if isinstance(example, str):
        return (example,)
    if isinstance(example, tuple):
        return example
    return () if isinstance(example, np.ndarray) else example.texts


def image_of(example: Example) -> NDArray[np.uint8] | None:
    """Return the image that an example is, decoded, None for texts."""
    if isinstance(example, StoredImage):
        return example.pixels
    return example if isinstance(example, np.ndarray) else None


def identity_of(example: Example) -> bytes | None:
    """Return what is the same for equal images or sounds alone, None for texts."""
    if isinstance(example, StoredImage | Sound):
        return example.identity
    return digest_of(example) if isinstance(example, np.ndarray) else None


def length_of(example: Example) -> int:
    """Return a number that grows with the tokens of an example: its characters or samples.

    0 for an image: those of a checkpoint all have one size after preprocessing.
    """
    if isinstance(example, Sound):
        return len(example)
    return sum(map(len, texts_of(example)))


def is_long(example: Example) -> bool:
    """Return whether an example is shown only where there are no shorter ones."""
    return sum(map(len, texts_of(example))) > _EASY_TO_READ
