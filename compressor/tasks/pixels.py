"""Pictures of every pixel format as the bytes that image processors take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_WIDE_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
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


def checked_pixels(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return decoded pixels as uint8 of shape `(height, width)` or `(height, width, 3)`.

    Raises `ValueError` for what are none.
    """
    if array.dtype.kind not in "iu" or array.size == 0 or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"pixels must be whole numbers from 0 to 255 (uint8), got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] == 3):
        raise ValueError(
            f"must have the shape (height, width) or (height, width, 3), got {array.shape}"
        )
    return array.astype(np.uint8, copy=False)


def pixels_of(image: Image) -> NDArray[np.uint8]:
    """Return a picture as uint8 of shape `(height, width)` or `(height, width, 3)`, upright.

    Raises `ValueError` for a pixel format without a range, such as floats.
    """
    from PIL import ImageOps  # only where there are pictures

    upright = ImageOps.exif_transpose(image)
    if upright.mode in _WIDE_GREY_MODES:
        # Pillow would clip 16 bits to 255; the upper byte is the picture.
        return (np.asarray(upright, dtype=np.uint16) >> 8).astype(np.uint8)
    if upright.mode in _GREY_MODES:
        return np.asarray(upright.convert("L"), dtype=np.uint8)
    if upright.mode in _COLOUR_MODES:
        return np.asarray(upright.convert("RGB"), dtype=np.uint8)
    raise ValueError(f"pixel format {image.mode} has no range that maps to 0..255; save it as PNG")
