"""Sound in WAV files, as a model reads it: one channel of float32 samples in -1..1.

Files are read here because the standard library reads no floats, and files of 24 bits with some
releases alone. Nothing is resampled: how that is done changes what a model hears, and a file at
another rate than the model's is refused with its row.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch
from compressor.paths import unreadable
from compressor.runtime.sounds import LOUDEST, Samples
from compressor.words import counted

# Bytes that no file holds: what programs such as ffmpeg and sox say when they write to a pipe.
_LENGTH_UNKNOWN = 0x7FFF_F000
_PARTS = 16  # of a sound, whose loudness is taken
_QUIETEST = 1e-10  # power that is added, so that silence has a logarithm
_WHOLE, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # formats, the last of which names another one


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
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
        form, frames, size = _parts_of(content)
    except (OSError, ValueError, struct.error) as error:
        raise EnvironmentMismatch(
            f"{place}: the sound{name} is no WAV file of numbers (PCM or float) that can be read "
            f"({error}); convert it, for instance with ffmpeg -i IN -c:a pcm_s16le OUT.wav"
        ) from error
    if len(frames) < form.frame:
        raise EnvironmentMismatch(f"{place}: the sound{name} has no samples; leave the sound out")
    count = size // form.frame
    if len(frames) < size < _LENGTH_UNKNOWN:
        raise EnvironmentMismatch(
            f"{place}: the sound{name} ends after {len(frames) // form.frame:,} of its "
            f"{counted(count, 'sample')}; copy the file again, or leave the sound out"
        )
    whole = len(frames) // form.frame * form.frame
    values = _numbers(frames[:whole], form).reshape(-1, form.channels)
    if form.is_float and not np.abs(values).max() <= LOUDEST:
        raise EnvironmentMismatch(
            f"{place}: the sound{name} has floats that are no samples in -1..1; divide samples of "
            f"16 bits by 32768, or leave the sound out"
        )
    return Sound(values.mean(axis=1, dtype=np.float64).astype(np.float32), form.rate, place)


@dataclass(frozen=True)
class _Form:
    """What a WAV file says of its samples."""

    is_float: bool
    channels: int
    rate: int
    width: int  # bytes of a sample of one channel

    @property
    def frame(self) -> int:
        """Return the bytes of a sample of all channels."""
        return self.width * self.channels


def loudness(sounds: Iterable[Samples]) -> NDArray[np.float32]:
    """Return how long sounds are and how loud in each of 16 parts, shape `(num_sounds, 17)`.

    Loudness is the logarithm of the root mean square. Both are counted from the mean over all
    sounds, so that those of each by itself tell little.
    """
    found = []
    for samples in sounds:
        parts = [part for part in np.array_split(samples, _PARTS) if len(part)]
        power = [float(np.square(part, dtype=np.float64).mean()) for part in parts]
        power += power[-1:] * (_PARTS - len(parts))
        found.append([np.log(len(samples)), *(np.log(np.array(power) + _QUIETEST) / 2)])
    values = np.array(found)
    return np.asarray(values - values.mean(axis=0), dtype=np.float32)


def _parts_of(content: bytes) -> tuple[_Form, bytes, int]:
    """Return how samples are written, the samples, and how many bytes they are said to have.

    Raises `ValueError` and `struct.error` for what is no WAV file of numbers.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("it does not begin as one" if content else "it is empty")
    form: _Form | None = None
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        start = place + 8
        if kind == b"fmt ":
            form = _form_of(content[start : start + size])
        if kind == b"data":
            if form is None:
                raise ValueError("its samples stand before their format")
            return form, content[start : start + size], size
        place = start + size + size % 2  # chunks begin at even places
    raise ValueError("it ends before its samples")


def _form_of(chunk: bytes) -> _Form:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if kind == _EXTENSIBLE:
        [kind] = struct.unpack_from("<H", chunk, 24)
    widths = {_WHOLE: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(kind)
    if widths is None or bits not in widths:
        raise ValueError(f"format {kind}, {bits} bits")
    if channels < 1 or rate < 1:
        raise ValueError(f"{counted(channels, 'channel')}, {counted(rate, 'sample')} a second")
    return _Form(kind == _FLOAT, channels, rate, bits // 8)


def _numbers(frames: bytes, form: _Form) -> NDArray[np.float64]:
    """Return samples as numbers, whole ones in -1..1."""
    width = form.width
    if form.is_float:
        return np.frombuffer(frames, np.dtype(f"<f{width}")).astype(np.float64)
    if width == 1:  # without a sign, as the format has it
        return (np.frombuffer(frames, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        parts = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        padded = np.zeros((len(parts), 4), np.uint8)
        padded[:, 1:] = parts
        return np.asarray(padded.view("<i4")[:, 0].astype(np.float64) / 2**31)
    whole = np.frombuffer(frames, np.dtype(f"<i{width}")).astype(np.float64)
    return np.asarray(whole / 2 ** (8 * width - 1))
