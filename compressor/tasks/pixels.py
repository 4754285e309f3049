"""Small grey copies of pictures, to tell them apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.pixels import checked_pixels as checked_pixels
from compressor.runtime.pixels import pixels_of as pixels_of

_SIDE = 16  # pixels of a small copy


def thumbnails(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return small grey copies, shape `(num_images, 256)`: how light each of 16 x 16 places is.

    It is counted from the mean over all images, so that the light of each by itself tells little.
    """
    from PIL import Image  # only where there are pictures

    copies = [
        Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
        for image in images
    ]
    found = np.stack([np.asarray(copy, dtype=np.float32).ravel() for copy in copies])
    return np.asarray(found - found.mean(axis=0))
