"""What a user of an artifact gives, as a list of images or sounds; what is none is refused.

A model predicts for whatever it is given, so a picture that is taken for a list of pictures would
come back with a label and a score. Of texts: `compressor.runtime.given`.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.given import shown
from compressor.runtime.pixels import given_images as pictures
from compressor.runtime.sounds import heard, sounds_listed
from compressor.tasks.sound import Sound, StoredSound
from compressor.tasks.stored_image import StoredImage


def from_base64(value: Any, place: str) -> bytes:
    """Return the bytes of a file that came as a string in base64, as JSON can hold them.

    Raises `ValueError` for anything else.
    """
    if not isinstance(value, str):
        raise ValueError(f"{place}: must be a file as a string in base64, got {shown(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError(f"{place}: must be a file as a string in base64 ({error})") from error


def given_images(value: Any) -> list[StoredImage | NDArray[np.uint8]]:
    """Return pictures as a list of uint8 arrays, `(height, width)` or `(height, width, 3)`.

    Raises `ValueError` that names the first example which will not do.
    """
    return pictures(value, kept=(StoredImage,))


def given_sounds(value: Any) -> list[Sound | StoredSound]:
    """Return sounds as a list, of arrays of samples at the rate that the model reads.

    Raises `ValueError` that names the first example which will not do.
    """
    return [_heard(item, f"example {place}") for place, item in enumerate(sounds_listed(value))]


def _heard(item: Any, place: str) -> Sound | StoredSound:
    kept = isinstance(item, Sound | StoredSound)
    return item if kept else Sound(heard(item, place), None, place)
