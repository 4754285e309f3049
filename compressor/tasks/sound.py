"""Sound in WAV files, as a model reads it: one channel of float32 samples in -1..1.

PCM files are read by the standard library. Nothing is resampled here: how that is done changes what
a model hears, and a file at another rate than the model's is refused with its row.
"""

from __future__ import annotations

import hashlib
import io
import wave
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch
from compressor.paths import unreadable
from compressor.runtime.sounds import Samples
from compressor.words import counted

# Bytes that no file holds: what programs such as ffmpeg and sox say when they write to a pipe.
_LENGTH_UNKNOWN = 0x7FFF_F000


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples of shape `(num_samples,)`; `rate` is how many are a second, None where it is given.

    `place` is what names it, for errors.
    """

    samples: Samples = field(repr=False)
    rate: int | None
    place: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return that there are none."""
        return ()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @cached_property
    def identity(self) -> bytes:
        """Return what is the same for equal samples alone."""
        digest = hashlib.sha256(f"sound{self.rate}".encode())
        digest.update(np.ascontiguousarray(self.samples).tobytes())
        return digest.digest()


@dataclass(frozen=True, eq=False)
class StoredSound:
    """A sound in a WAV file or in its bytes, read whenever it is heard; `place` is its row."""

    source: Path | bytes = field(repr=False)
    place: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return that there are none."""
        return ()

    def __len__(self) -> int:
        """Return the number of samples; errors as `read_wav`."""
        return len(self.read())

    def read(self) -> Sound:
        """Return its samples; errors as `read_wav`."""
        return read_wav(self.source, self.place)

    @cached_property
    def identity(self) -> bytes:
        """Return what is the same for equal samples alone; errors as `read_wav`."""
        return self.read().identity


def read_wav(source: Path | bytes, place: str) -> Sound:
    """Return the mean over the channels of a WAV file, given as a path or as its bytes.

    Raises `EnvironmentMismatch` where it is missing, damaged or of another kind.
    """
    name = f" {source}" if isinstance(source, Path) else ""
    if isinstance(source, Path) and (reason := unreadable(source)) is not None:
        raise EnvironmentMismatch(
            f"{place}: the sound{name} {reason}; paths are relative to the file of rows"
        )
    content = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        with wave.open(content, "rb") as stream:
            width, channels, rate = (
                stream.getsampwidth(),
                stream.getnchannels(),
                stream.getframerate(),
            )
            count = stream.getnframes()
            frames = stream.readframes(count)
    except (OSError, EOFError, wave.Error) as error:
        raise EnvironmentMismatch(
            f"{place}: the sound{name} is no WAV file of whole numbers (PCM) that can be read "
            f"({error or 'it ends too early'}); convert it, for instance with ffmpeg -i IN "
            f"-c:a pcm_s16le OUT.wav"
        ) from error
    if len(frames) < width * channels:
        raise EnvironmentMismatch(f"{place}: the sound{name} has no samples; remove the row")
    if len(frames) < count * width * channels < _LENGTH_UNKNOWN:
        raise EnvironmentMismatch(
            f"{place}: the sound{name} ends after {len(frames) // (width * channels):,} of its "
            f"{counted(count, 'sample')}; copy the file again, or remove the row"
        )
    whole = len(frames) // (width * channels) * width * channels
    values = _numbers(frames[:whole], width).reshape(-1, channels)
    return Sound(values.mean(axis=1, dtype=np.float64).astype(np.float32), rate, place)


def _numbers(frames: bytes, width: int) -> NDArray[np.float64]:
    """Return samples of so many bytes as numbers in -1..1."""
    if width == 1:  # without a sign, as the format has it
        return (np.frombuffer(frames, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        parts = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        padded = np.zeros((len(parts), 4), np.uint8)
        padded[:, 1:] = parts
        return np.asarray(padded.view("<i4")[:, 0].astype(np.float64) / 2**31)
    whole = np.frombuffer(frames, np.dtype(f"<i{width}")).astype(np.float64)
    return np.asarray(whole / 2 ** (8 * width - 1))
