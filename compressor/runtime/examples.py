"""What a model reads: a text, a pair of texts, a list of words, an image, or what has texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ConfigFile = Mapping[str, Any]  # the content of config.json or another file of settings


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
