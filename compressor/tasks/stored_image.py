"""Images that are decoded whenever they are read, so that a split of many takes little memory."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch
from compressor.paths import unreadable
from compressor.tasks.pixels import pixels_of

# Formats that Pillow lets another program draw, Ghostscript, which runs what they say.
_PROGRAMS = ("EPS",)


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image in a file or in bytes; `place` is the row that names it, for errors."""

    source: Path | bytes = field(repr=False)
    place: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return that there are none."""
        return ()

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Decode it to uint8 of shape `(height, width)` or `(height, width, 3)`.

        Raises `EnvironmentMismatch` where it is missing or damaged.
        """
        name = f" {self.source}" if isinstance(self.source, Path) else ""
        if isinstance(self.source, Path) and (reason := unreadable(self.source)) is not None:
            raise EnvironmentMismatch(
                f"{self.place}: the image{name} {reason}; paths are relative to the file of rows"
            )
        # Here and not at the top, because `compress validate` must answer at once.
        from PIL import Image, UnidentifiedImageError

        content = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(content) as image:
                    if image.format in _PROGRAMS:
                        raise ValueError(f"{image.format} is a program that draws; save it as PNG")
                    return pixels_of(image)
        except UnidentifiedImageError as error:
            raise EnvironmentMismatch(
                f"{self.place}: the image{name} is empty or of no format that Pillow reads; save "
                f"it as PNG or JPEG"
            ) from error
        except (
            # What the decoders of Pillow raise for bytes that are not as their format says.
            OSError,
            EOFError,
            ValueError,
            SyntaxError,
            TypeError,
            LookupError,
            OverflowError,
            RuntimeError,
            struct.error,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as error:
            raise EnvironmentMismatch(
                f"{self.place}: the image{name} is missing or damaged ({error})"
            ) from error

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        """Return the pixels, so that NumPy reads it like an image that is decoded."""
        return np.array(self.pixels, dtype=dtype, copy=copy)

    @cached_property
    def identity(self) -> bytes:
        """Return what is the same for images of the same pixels alone; errors as `pixels`."""
        return digest_of(self.pixels)


@dataclass(frozen=True)
class Gradient:
    """A grey gradient of whatever size a model reads, where no image is at hand."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Return that there are none."""
        return ()

    def pixels(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return uint8 of shape `(height, width)`, darker on the left."""
        shades = np.linspace(0, 255, width).astype(np.uint8)
        return np.tile(shades, (height, 1))


def digest_of(image: NDArray[np.uint8]) -> bytes:
    """Return the SHA-256 of the shape and the pixels of an image."""
    digest = hashlib.sha256(f"image{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.digest()
