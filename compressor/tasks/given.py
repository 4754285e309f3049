"""What a user of an artifact gives, as a list of images or sounds; what is none is refused.

A model predicts for whatever it is given, so a picture that is taken for a list of pictures would
come back with a label and a score. Of texts: `compressor.runtime.given`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.given import listed, shown
from compressor.runtime.pixels import given_images as pictures
from compressor.tasks.sound import Sound, StoredSound, samples_of
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
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype != object:
        raise ValueError("give a list of sounds, such as [samples], not the samples of one")
    return [_heard(item, f"example {place}") for place, item in enumerate(listed(value))]


def _heard(item: Any, place: str) -> Sound | StoredSound:
    if isinstance(item, Sound | StoredSound):
        return item
    if isinstance(item, str | bytes | Mapping) or not hasattr(item, "__array__"):
        raise ValueError(f"{place}: must be a sound, as an array of samples, got {shown(item)}")
    try:
        return Sound(samples_of(np.asarray(item)), None, place)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
