"""What a model reads: a text, a pair of texts, an image, or what else a task makes of rows.

An example of another kind has the property `texts`; everything outside the tasks then counts,
orders and quotes it like any text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.examples import Example as Example
from compressor.runtime.examples import HasTexts as HasTexts
from compressor.runtime.examples import Words as Words
from compressor.runtime.examples import texts_of as texts_of
from compressor.tasks.sound import Sound, StoredSound
from compressor.tasks.stored_image import StoredImage, digest_of

Batch = dict[str, NDArray[Any]]  # model inputs by name, the first axis is the batch
_EASY_TO_READ = 80  # characters


def image_of(example: Example) -> NDArray[np.uint8] | None:
    """Return the image that an example is, decoded, None for texts."""
    if isinstance(example, StoredImage):
        return example.pixels
    return example if isinstance(example, np.ndarray) else None


def identity_of(example: Example) -> bytes | None:
    """Return what is the same for equal images or sounds alone, None for texts."""
    if isinstance(example, StoredImage | StoredSound | Sound):
        return example.identity
    return digest_of(example) if isinstance(example, np.ndarray) else None


def length_of(example: Example) -> int:
    """Return a number that grows with the tokens of an example: its characters or samples.

    0 for an image: those of a checkpoint all have one size after preprocessing.
    """
    if isinstance(example, StoredSound | Sound):
        return len(example)
    return sum(map(len, texts_of(example)))


def is_long(example: Example) -> bool:
    """Return whether an example is shown only where there are no shorter ones."""
    return sum(map(len, texts_of(example))) > _EASY_TO_READ
