"""How a sound's vector is made of what an encoder of sound computes, as config.json says it.

Wav2Vec2, HuBERT, WavLM and Whisper have no pooled output of their own: as their classifiers in
transformers do, the mean over frames is taken, of those that are no padding where the model reads a
mask. The Audio Spectrogram Transformer has one, the mean of its two first tokens. Free of torch, so
that `compress validate` refuses what gives no vector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.runtime.sounds import READS_SAMPLES
from compressor.tasks.feature_vector import (
    FeatureVector,
    VectorMode,
    require_same,
    stored_vector,
)
from compressor.tasks.head import ConfigFile, HeadProblem
from compressor.tasks.pooling import read_config

KEY = "audio_features"  # of config.json, where what is saved says how vectors are made
_MODES: tuple[VectorMode, ...] = ("cls", "patch_mean", "frame_mean", "pooler")


@dataclass(frozen=True)
class _Way:
    """How a family makes vectors, and what `model.pooling` may choose in place of that."""

    mode: VectorMode
    asked: Mapping[str, VectorMode]
    first_patch: int = 0  # states before those of patches or frames


_FRAMES = _Way("frame_mean", {"mean": "frame_mean"})
_WAYS: Mapping[str, _Way] = {
    "audio-spectrogram-transformer": _Way("pooler", {"cls": "cls", "mean": "patch_mean"}, 2),
    "hubert": _FRAMES,
    "wav2vec2": _FRAMES,
    "wavlm": _FRAMES,
    "whisper": _FRAMES,
}
# How the keys of weights begin that are of Whisper's decoder.
OF_DECODER = re.compile(r"^((model\.)?decoder|proj_out)\.")
_OF_SPEAKERS = "ForXVector"
_SPEAKER_WEIGHTS = "tdnn."


def reads_sounds(config: ConfigFile) -> bool:
    """Return whether config.json is of an encoder of sound that was compared with transformers."""
    return config.get("model_type") in READS_SAMPLES


def require_frames(config: ConfigFile, tensors: Sequence[str]) -> None:
    """Raise `HeadProblem` for an encoder whose vectors are not made of its frames alone.

    `tensors` are the keys of its weights.
    """
    named = [str(name) for name in config.get("architectures") or ()]
    speakers = [name for name in named if name.endswith(_OF_SPEAKERS)]
    if speakers or any(name.startswith(_SPEAKER_WEIGHTS) for name in tensors):
        raise HeadProblem(
            f"architectures is {', '.join(named) or 'missing'}, and its vectors, those of "
            f"speakers, are made by layers after the encoder ({_SPEAKER_WEIGHTS}*) that no task "
            f"computes; the mean over frames would be other vectors, so give an encoder without "
            f"such a head"
        )
    if config.get("add_adapter"):
        raise HeadProblem(
            "add_adapter is true: convolutions after the encoder join frames with padding behind "
            "them, so a vector would depend on the other sounds of its batch; give an encoder "
            "without an adapter"
        )


def read_vector(
    directory: Path, *, mode: str | None = None, normalize: bool | None = None
) -> FeatureVector:
    """Return how a checkpoint's vectors are made: by its files, else by the recipe, else as usual.

    `mode` and `normalize` are what the recipe says, None where it says nothing. Raises
    `EnvironmentMismatch` for a model type whose vectors are not known, and a damaged file, and
    `RecipeError` where the recipe contradicts the files, or asks for what the encoder has not.
    """
    config = read_config(directory)
    place = directory / "config.json"
    kind = str(config.get("model_type"))
    way = _WAYS.get(kind)
    if way is None:
        raise EnvironmentMismatch(
            f"{place}: how model type '{kind}' makes one vector of a sound is not known; known "
            f"are {', '.join(_WAYS)}"
        )
    stored = config.get(KEY)
    if stored is not None:
        known = tuple(item for item in _MODES if item in (way.mode, *way.asked.values()))
        found = stored_vector(place, KEY, stored, known)
        require_same(found, way.asked, mode, normalize)
        return found
    if mode is None:
        return FeatureVector(way.mode, bool(normalize), way.first_patch)
    if mode not in way.asked:
        raise RecipeError(
            [
                f"model.pooling: is {mode}, and model type '{kind}' has vectors of "
                f"{' or '.join(way.asked)} alone; give one of them, or remove it"
            ]
        )
    return FeatureVector(way.asked[mode], bool(normalize), way.first_patch)
