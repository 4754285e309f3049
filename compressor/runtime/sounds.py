"""Sounds as a user gives them, and as what a model reads: samples, normalised, or a spectrogram.

The feature extractors of transformers that Wav2Vec2, Whisper and the Audio Spectrogram Transformer
have are computed here from their settings. Samples and AST's spectrogram are theirs to the last
bit. Whisper's is theirs as far as float32 goes: where torch is installed they compute it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EnvironmentMismatch, RecipeError
from .files import read_object
from .given import listed, shown
from .words import counted

Samples = NDArray[np.float32]

SETTINGS = "preprocessor_config.json"
LOUDEST = 16.0  # of floats: a little above 1 is usual, and what is far above is another scale
# Model types whose graphs were compared with transformers, and whether they read samples as they
# are, of any number; the others read a spectrogram of one size.
READS_SAMPLES: Mapping[str, bool] = {
    "audio-spectrogram-transformer": False,
    "hubert": True,
    "wav2vec2": True,
    "wavlm": True,
    "whisper": False,
}
_AST_SECONDS = 0.025  # of a frame of the spectrogram that AST reads; Whisper pads sounds first
_EPSILON = 1e-7  # of a variance, in transformers
# Of AST's spectrogram, in samples whatever the rate is.
_FRAME, _HOP, _TRANSFORM, _PREEMPHASIS, _FLOOR = 400, 160, 512, 0.97, 1.192092955078125e-07


def given_sounds(value: Any) -> list[Samples]:
    """Return sounds as a list of arrays of samples in -1..1, float32 of shape `(num_samples,)`.

    Raises `ValueError` that names the first example which will not do.
    """
    return [heard(item, f"example {place}") for place, item in enumerate(sounds_listed(value))]


def sounds_listed(value: Any) -> list[Any]:
    """Return what should be sounds as a list; raises `ValueError` for what is none."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype != object:
        raise ValueError("give a list of sounds, such as [samples], not the samples of one")
    return listed(value)


def heard(item: Any, place: str) -> Samples:
    """Return the samples of one sound; raises `ValueError` for anything else."""
    if isinstance(item, str | bytes | Mapping) or not hasattr(item, "__array__"):
        raise ValueError(f"{place}: must be a sound, as an array of samples, got {shown(item)}")
    try:
        return samples_of(np.asarray(item))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def samples_of(array: NDArray[Any]) -> Samples:
    """Return samples as float32 of shape `(num_samples,)`; raises `ValueError` for others."""
    if array.ndim != 1 or array.size == 0 or array.dtype.kind != "f":
        raise ValueError(
            f"must be float samples in -1..1 of shape (num_samples,), got {array.dtype} of shape "
            f"{array.shape}"
        )
    if not np.abs(array).max() <= LOUDEST:  # nor for what is no number
        raise ValueError("samples must be finite and in -1..1; divide 16-bit samples by 32768")
    return array.astype(np.float32)


@dataclass(frozen=True)
class SoundInputs:
    """What a model reads of sounds, made by its feature extractor.

    `shortest` is the fewest samples that give one frame. `is_masked` says that a model of samples
    reads a mask, and that what it computes is the same however far a sound is padded.
    """

    extractor: Any
    reads_samples: bool
    is_masked: bool
    shortest: int

    @classmethod
    def of(cls, extractor: Any, config: Mapping[str, Any]) -> SoundInputs:
        """Return that of a model by its config.json."""
        kind = str(config.get("model_type"))
        reads_samples = READS_SAMPLES.get(kind, True)
        # A norm over the whole of a sound takes its padding in, whatever the mask says.
        is_masked = reads_samples and config.get("feat_extract_norm", "group") == "layer"
        shortest = _shortest(config) if reads_samples else 1
        if kind == "audio-spectrogram-transformer":
            shortest = int(_AST_SECONDS * extractor.sampling_rate)
        return cls(extractor, reads_samples, is_masked, shortest)

    @property
    def needs_length(self) -> bool:
        """Return whether every sound has to be cut or padded to one length."""
        return self.reads_samples and not self.is_masked

    def require_frame(self, sound: Samples, place: str) -> None:
        """Raise `RecipeError` for a sound that gives no frame."""
        if len(sound) < self.shortest:
            raise RecipeError(
                f"{place}: the sound has {counted(len(sound), 'sample')}, and the model needs "
                f"{self.shortest:,} for a first frame; leave such sounds out"
            )

    def require_length(self, max_length: int | None) -> None:
        """Raise `RecipeError` where sounds would be cut to less than a frame."""
        if max_length is not None and max_length < self.shortest:
            raise RecipeError(
                f"max_length: is {counted(max_length, 'sample')}, and the model needs "
                f"{self.shortest:,} for a first frame; set as many as the longest sound has"
            )

    def batch(self, sounds: Sequence[Samples], max_length: int | None) -> dict[str, NDArray[Any]]:
        """Return `input_values` or `input_features`, float32, and a mask where the model reads it.

        `max_length` is how many samples of a sound are read at most. Raises `RecipeError` where a
        model whose outputs depend on padding is not given one, and as `require_length`.
        """
        self.require_length(max_length)
        arrays = [sound[:max_length] for sound in sounds]
        rate = int(self.extractor.sampling_rate)
        options: dict[str, Any] = {"sampling_rate": rate, "return_tensors": "np"}
        if not self.reads_samples:
            found = self.extractor(arrays, **options)
            return {
                name: np.asarray(value, np.float32)
                for name, value in found.items()
                if name != "attention_mask"
            }
        if self.needs_length and max_length is None:
            raise RecipeError(
                "export.max_length: the model normalises over the whole of a sound "
                "(feat_extract_norm is group in config.json), so a prediction depends on how far a "
                "sound is padded; set how many samples every sound is cut or padded to, such as "
                f"{rate} for one second"
            )
        padding = "longest" if self.is_masked else "max_length"
        limit = {} if self.is_masked else {"max_length": max_length}
        found = self.extractor(
            arrays, padding=padding, return_attention_mask=True, **limit, **options
        )
        values = {"input_values": np.asarray(found["input_values"], np.float32)}
        if self.is_masked:
            values["attention_mask"] = np.asarray(found["attention_mask"], np.int64)
        return values


class SoundProcessor:
    """What `preprocessor_config.json` says of sounds, computed with NumPy."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.kind = str(settings["feature_extractor_type"])
        self.sampling_rate = int(settings["sampling_rate"])

    @classmethod
    def load(cls, directory: Path) -> SoundProcessor:
        """Return the processor of the artifact in `directory`.

        Raises `EnvironmentMismatch` for one that does more than is computed here.
        """
        settings = read_object(directory / SETTINGS)
        if (why := _more_than_plain(settings)) is not None:
            raise EnvironmentMismatch(
                f"{directory / SETTINGS}: {why} is not computed here; load the artifact with the "
                f"package compressor"
            )
        return cls(settings)

    @staticmethod
    def is_plain(directory: Path) -> bool:
        """Return whether `load` takes the processor in `directory`."""
        there = (directory / SETTINGS).is_file()
        return there and _more_than_plain(read_object(directory / SETTINGS)) is None

    def __call__(
        self,
        sounds: Sequence[Samples],
        *,
        padding: str | None = None,
        max_length: int | None = None,
        sampling_rate: int,  # noqa: ARG002 - that of the processor, as transformers wants to hear
        return_tensors: str = "np",  # noqa: ARG002 - as they are here
        return_attention_mask: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Return what transformers' feature extractor gives.

        Samples are `input_values` of shape `(batch, samples)`, padded to the longest or, where
        `padding` is "max_length", to `max_length`; spectrograms `(batch, frames, bins)` for AST,
        and `input_features` of shape `(batch, bins, frames)` for Whisper.
        """
        if self.kind == "ASTFeatureExtractor":
            return {"input_values": np.stack([self._ast(sound) for sound in sounds])}
        if self.kind == "WhisperFeatureExtractor":
            return {"input_features": np.stack([self._whisper(sound) for sound in sounds])}
        own = max_length if padding == "max_length" else None
        width = own or max(map(len, sounds))
        values = np.full((len(sounds), width), self.settings["padding_value"], np.float32)
        mask = np.zeros((len(sounds), width), np.int32)
        for row, sound in enumerate(sounds):
            is_normal = self.settings["do_normalize"]
            values[row, : len(sound)] = _normalised(sound) if is_normal else sound
            mask[row, : len(sound)] = 1
        return {
            "input_values": values,
            **({"attention_mask": mask} if return_attention_mask else {}),
        }

    def _whisper(self, sound: Samples) -> NDArray[np.float32]:
        """Return the log-mel spectrogram of a sound, padded or cut to the length that is read."""
        own = self.settings
        length, size = int(own["chunk_length"]) * self.sampling_rate, int(own["n_fft"])
        padded = np.full(length, own["padding_value"], np.float32)
        padded[: len(sound)] = sound[:length]
        frames = _frames(np.pad(padded, size // 2, mode="reflect"), size, int(own["hop_length"]))
        power = _power(frames * np.hanning(size + 1)[:-1], size)
        edges = _slaney_to_hertz(np.linspace(0.0, _slaney(8000.0), int(own["feature_size"]) + 2))
        bins = np.linspace(0, self.sampling_rate // 2, 1 + size // 2)
        filters = _triangles(bins, edges) * (2.0 / (edges[2:] - edges[:-2]))
        found = np.log10(np.maximum(1e-10, np.dot(filters.T, power.T))).astype(np.float32)[:, :-1]
        floored: NDArray[np.float32] = np.maximum(found, found.max() - np.float32(8))
        return (floored + np.float32(4)) / np.float32(4)

    def _ast(self, sound: Samples) -> NDArray[np.float32]:
        """Return the log-mel spectrogram of a sound, its frames padded or cut to a number."""
        own = self.settings
        frames = _frames(sound, _FRAME, _HOP)
        frames = frames - frames.mean(axis=1, keepdims=True)
        frames[:, 1:] -= _PREEMPHASIS * frames[:, :-1]
        frames[:, 0] *= 1 - _PREEMPHASIS
        power = _power(frames * np.hanning(_FRAME), _TRANSFORM)
        count, rate = int(own["num_mel_bins"]), self.sampling_rate
        edges = np.linspace(_kaldi(20), _kaldi(rate // 2), count + 2)
        bins = _kaldi(rate / _TRANSFORM * np.arange(1 + _TRANSFORM // 2))
        mel = np.maximum(_FLOOR, np.dot(_triangles(bins, edges).T, power.T))
        found = np.log(mel).astype(np.float32).T[: int(own["max_length"])]
        padded = np.zeros((int(own["max_length"]), count), np.float32)
        padded[: len(found)] = found
        if own["do_normalize"]:
            padded = (padded - np.float32(own["mean"])) / np.float32(own["std"] * 2)
        return padded


def most_samples(settings: Mapping[str, Any]) -> int | None:
    """Return how many samples of a sound a feature extractor reads at most; None: any number."""
    kind = settings.get("feature_extractor_type")
    if kind == "WhisperFeatureExtractor":
        return int(settings["chunk_length"]) * int(settings["sampling_rate"])
    if kind == "ASTFeatureExtractor":  # one more sample begins a frame that is left out
        return _FRAME + int(settings["max_length"]) * _HOP - 1
    return None


def _more_than_plain(settings: Mapping[str, Any]) -> str | None:
    """Return what a feature extractor does besides, or None."""
    kind = settings.get("feature_extractor_type")
    needs = {
        "Wav2Vec2FeatureExtractor": ("do_normalize", "padding_value"),
        "WhisperFeatureExtractor": (
            "chunk_length", "feature_size", "hop_length", "n_fft", "padding_value",
        ),
        "ASTFeatureExtractor": ("do_normalize", "max_length", "mean", "num_mel_bins", "std"),
    }.get(str(kind))  # fmt: skip
    if needs is None:
        return str(kind)
    if missing := [key for key in (*needs, "sampling_rate") if key not in settings]:
        return f"{kind} without {' and '.join(missing)}"
    if settings.get("padding_side", "right") != "right":
        return "padding on the left"
    return "dither" if settings.get("dither") else None


def _shortest(config: Mapping[str, Any]) -> int:
    """Return how many samples the convolutions before an encoder need for one frame."""
    kernels = config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * int(stride) + int(kernel)
    return samples


def _normalised(sound: Samples) -> Samples:
    found: Samples = (sound - sound.mean()) / np.sqrt(sound.var() + _EPSILON)
    return found


def _frames(sound: NDArray[Any], size: int, hop: int) -> NDArray[np.float64]:
    """Return the frames of a sound, `(num_frames, size)`."""
    found = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), size)[::hop]
    return np.array(found)


def _power(frames: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return the power of each frequency, `(num_frames, 1 + size // 2)`."""
    spectrum = np.fft.rfft(frames, size).astype(np.complex64)
    found: NDArray[np.float64] = np.abs(spectrum, dtype=np.float64) ** 2.0
    return found


def _triangles(bins: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.float64]:
    """Return filters that rise and fall between three edges, `(num_bins, num_edges - 2)`."""
    widths = np.diff(edges)
    slopes = edges[None] - bins[:, None]
    found: NDArray[np.float64] = np.maximum(
        0.0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:])
    )
    return found


def _kaldi(hertz: Any) -> Any:
    """Return frequencies on Kaldi's mel scale."""
    return 1127.0 * np.log(1.0 + hertz / 700.0)


def _slaney(hertz: float) -> float:
    """Return a frequency of 1 kHz or more on Slaney's mel scale."""
    return 15.0 + float(np.log(hertz / 1000.0)) * (27.0 / float(np.log(6.4)))


def _slaney_to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frequencies in hertz: linear below 1 kHz, logarithmic above.

    Ref: Slaney 1998, Auditory Toolbox.
    """
    above = 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0))
    return np.where(mels >= 15.0, above, 200.0 * mels / 3.0)
