"""Pictures as a user gives them, and as what a model reads: resized, cropped and normalised.

Pillow is imported where there are pictures. What a processor of transformers does that only says
how to resize, crop, rescale and normalise is done here alike, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import EnvironmentMismatch
from .files import read_object
from .given import listed, shown

if TYPE_CHECKING:
    from PIL.Image import Image

PROCESSOR = "preprocessor_config.json"
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
_WIDE_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
# Processors of transformers that do what their settings say, in this order, and nothing else.
_PLAIN = ("BitImageProcessor", "CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor")
_BILINEAR = 2  # of Pillow, which transformers takes where nothing is said


def given_images(value: Any, kept: tuple[type, ...] = ()) -> list[Any]:
    """Return pictures as a list of uint8 arrays, `(height, width)` or `(height, width, 3)`.

    Those of the types `kept` stay as they are. Raises `ValueError` that names the first example
    which will not do.
    """
    if _is_picture(value) or (isinstance(value, np.ndarray) and _is_one_array(value)):
        raise ValueError("give a list of images, such as [image], not a bare image")
    return [
        item if isinstance(item, kept) else _image(item, f"example {place}")
        for place, item in enumerate(listed(value))
    ]


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


def with_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return the image as `(height, width, channels)`, 1 for grey and 3 for colour."""
    if image.ndim == 3 and image.shape[2] == channels:
        return image
    if image.ndim == 3:
        from PIL import Image as Pillow  # only where a colour picture becomes grey

        image = np.asarray(Pillow.fromarray(image.squeeze()).convert("L"))
    return np.repeat(image[:, :, None], channels, axis=2)


class ImageProcessor:
    """What `preprocessor_config.json` says of pictures, for a model of so many channels."""

    def __init__(self, settings: Mapping[str, Any], channels: int, place: str) -> None:
        self.settings = settings
        self.channels = channels
        self.place = place

    @classmethod
    def load(cls, directory: Path) -> ImageProcessor:
        """Return the processor of the artifact in `directory`.

        Raises `EnvironmentMismatch` for one that does more than it says in its file.
        """
        settings, config = (read_object(directory / name) for name in (PROCESSOR, "config.json"))
        if (why := _more_than_plain(settings)) is not None:
            raise EnvironmentMismatch(
                f"{directory / PROCESSOR}: {why} is not computed here; load the artifact with the "
                f"package compressor"
            )
        return cls(settings, _channels(settings, config), str(directory / PROCESSOR))

    @staticmethod
    def is_plain(directory: Path) -> bool:
        """Return whether `load` takes the processor in `directory`."""
        there = (directory / PROCESSOR).is_file()
        return there and _more_than_plain(read_object(directory / PROCESSOR)) is None

    def __call__(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        input_data_format: str = "channels_last",  # noqa: ARG002 - as images always are here
    ) -> dict[str, NDArray[np.float32]]:
        """Return `pixel_values`, float32 of shape `(batch, channels, height, width)`.

        Raises `EnvironmentMismatch` where images are left at several sizes.
        """
        found = [self._one(with_channels(image, self.channels)) for image in images]
        sizes = sorted({item.shape for item in found})
        if len(sizes) > 1:
            told = " and ".join("x".join(map(str, size[-2:])) for size in sizes[:2])
            raise EnvironmentMismatch(
                f"{self.place}: leaves images at several sizes, such as {told}, and a model takes "
                f"one; give images of one size"
            )
        return {"pixel_values": np.stack(found)}

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return one image as `(channels, height, width)`."""
        own = self.settings
        if own.get("do_resize"):
            image = _resized(image, _size(own["size"], image.shape), own.get("resample"))
        if own.get("do_center_crop"):
            image = _cropped(image, int(own["crop_size"]["height"]), int(own["crop_size"]["width"]))
        values = image.astype(np.float32)
        if own.get("do_rescale"):
            values = (image.astype(np.float64) * own["rescale_factor"]).astype(np.float32)
        if own.get("do_normalize"):
            mean, std = (_each(own[key], self.channels) for key in ("image_mean", "image_std"))
            values = (values - mean) / std
        return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def _more_than_plain(settings: Mapping[str, Any]) -> str | None:
    """Return what a processor does besides, or None."""
    kind = str(settings.get("image_processor_type")).removesuffix("Fast")
    if kind not in _PLAIN:
        return kind
    size = settings.get("size")
    keys = set(size) if isinstance(size, dict) else set()
    if settings.get("do_resize") and keys not in ({"height", "width"}, {"shortest_edge"}):
        return f"a size of {', '.join(sorted(keys)) or 'nothing'}"
    return "do_pad" if settings.get("do_pad") else None


def _each(value: Any, channels: int) -> NDArray[np.float32]:
    return np.array(value if isinstance(value, list) else [value] * channels, dtype=np.float32)


def _size(said: Mapping[str, int], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the height and width that an image gets."""
    if "height" in said:
        return int(said["height"]), int(said["width"])
    height, width = shape[:2]
    short = int(said["shortest_edge"])
    long = int(short * max(height, width) / min(height, width))
    return (long, short) if width <= height else (short, long)


def _resized(
    image: NDArray[np.uint8], size: tuple[int, int], resample: int | None
) -> NDArray[np.uint8]:
    from PIL import Image as Pillow  # only where there are pictures

    own = Pillow.fromarray(image.squeeze(axis=-1) if image.shape[2] == 1 else image)
    way = Pillow.Resampling(_BILINEAR if resample is None else resample)
    found = np.array(own.resize((size[1], size[0]), resample=way))
    return found[:, :, None] if found.ndim == 2 else found


def _cropped(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return the middle of an image, with black around one that is smaller."""
    own_height, own_width = image.shape[:2]
    full = (max(height, own_height), max(width, own_width))
    if full != (own_height, own_width):
        top, left = (math.ceil((full[i] - image.shape[i]) / 2) for i in (0, 1))
        larger = np.zeros((*full, image.shape[2]), dtype=image.dtype)
        larger[top : top + own_height, left : left + own_width] = image
        # As transformers counts it: from where the crop begins in the smaller image.
        start = (own_height - height) // 2 + top, (own_width - width) // 2 + left
    else:
        larger, start = image, ((own_height - height) // 2, (own_width - width) // 2)
    first = max(0, start[0]), max(0, start[1])
    last = min(full[0], start[0] + height), min(full[1], start[1] + width)
    return larger[first[0] : last[0], first[1] : last[1]]


def _channels(settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return how many channels a model reads: as config.json says, else one for each mean."""
    inside = config.get("vision_config") or config.get("backbone_config") or {}
    said = config.get("num_channels", inside.get("num_channels"))
    mean = settings.get("image_mean") if settings.get("do_normalize") else None
    if said is None:
        said = len(mean) if isinstance(mean, list) else 3
    return int(said)


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getexif") and hasattr(value, "convert")  # of Pillow, which may be absent


def _is_one_array(value: NDArray[Any]) -> bool:
    """Return whether an array is one image, or could be: three axes may be a list of grey ones."""
    return value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 2, 3, 4))


def _image(item: Any, place: str) -> NDArray[np.uint8]:
    if _is_picture(item):
        try:
            return pixels_of(item)
        except (OSError, ValueError) as error:
            raise ValueError(f"{place}: the image cannot be read ({error})") from error
    if isinstance(item, str | bytes | list | tuple | Mapping) or not hasattr(item, "__array__"):
        raise ValueError(
            f"{place}: must be an image, as an array of uint8 or opened with Pillow, got "
            f"{shown(item)}"
        )
    try:
        return checked_pixels(np.asarray(item))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
