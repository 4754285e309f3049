"""How an image's vector is made of what an encoder of images computes, as config.json says it.

Every family has its own way: CLIP projects what its tower pools, SigLIP pools by attention, DINOv2
takes the normalised state of its class token, BEiT the mean over patches. Where the encoder's own
way is a layer that checkpoints often leave random, as the pooler of ViT, the class token is taken.
Free of torch, so that `compress validate` refuses what gives no vector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.feature_vector import (
    FeatureVector,
    VectorMode,
    require_same,
    stored_vector,
)
from compressor.tasks.head import ConfigFile
from compressor.tasks.pooling import read_config

KEY = "image_features"  # of config.json, where what is saved says how vectors are made
_MODES: tuple[VectorMode, ...] = ("cls", "patch_mean", "pooler", "projection")
_ASKED: Mapping[str, VectorMode] = {"cls": "cls", "mean": "patch_mean"}  # by `model.pooling`


@dataclass(frozen=True)
class _Way:
    """How a family makes vectors, and how many of its states come before those of patches.

    `asks` says that a recipe may choose: states of tokens mean something by themselves.
    """

    mode: VectorMode
    first_patch: int = 1
    # How many further states there are before patches where num_register_tokens does not say; None:
    # never any.
    registers: int | None = None
    asks: bool = True


_WAYS: Mapping[str, _Way] = {
    "beit": _Way("pooler"),
    "clip_vision_model": _Way("pooler", asks=False),
    "data2vec-vision": _Way("pooler"),
    "deit": _Way("cls", first_patch=2),
    "dinov2": _Way("cls"),
    "dinov2_with_registers": _Way("cls", registers=4),
    "dinov3_vit": _Way("cls", registers=0),
    "siglip_vision_model": _Way("pooler", first_patch=0, asks=False),
    "vit": _Way("cls"),
    "vit_msn": _Way("cls"),
}
_REGISTERS = "num_register_tokens"
# Pairs of an encoder of texts and one of images, and the model type of the latter.
_PAIRS: Mapping[str, str] = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
_TOWER = "vision_config"
# How the keys of weights begin that are of the encoder of texts, or of both.
OF_TEXTS = re.compile(r"^(text_model|text_projection|logit_scale|logit_bias)(\.|$)")
_PROJECTS = "VisionModelWithProjection"  # how the names of architectures end that project


def is_pair(config: ConfigFile) -> bool:
    """Return whether config.json is of an encoder of texts with one of images."""
    return _TOWER in config


def reads_images(config: ConfigFile) -> bool:
    """Return whether config.json is of an encoder of images, by itself or in a pair.

    >>> reads_images({"model_type": "vit", "patch_size": 16}), reads_images({"vocab_size": 9})
    (True, False)
    """
    kind = config.get("model_type")
    if kind in _WAYS or is_pair(config):
        return True
    return "vocab_size" not in config and bool({"patch_size", "image_size"} & set(config))


def tower_of(config: ConfigFile) -> ConfigFile:
    """Return what config.json says of the encoder of images, which in a pair is a part of it."""
    kind = _PAIRS.get(str(config.get("model_type")))
    tower = config.get(_TOWER)
    if kind is None or not isinstance(tower, Mapping):
        return config
    # CLIP's first checkpoints say the same twice, and transformers takes the second.
    again = config.get(f"{_TOWER}_dict")
    return {**tower, **(again if isinstance(again, Mapping) else {}), "model_type": kind}


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
    stored = config.get(KEY)
    if stored is not None:
        found = stored_vector(place, KEY, stored, _MODES)
        require_same(found, _ASKED, mode, normalize)
        return found
    kind = str(tower_of(config).get("model_type"))
    way = _WAYS.get(kind)
    if way is None:
        raise EnvironmentMismatch(
            f"{place}: how model type '{kind}' makes one vector of an image is not known; known "
            f"are {', '.join(sorted({*_WAYS, *_PAIRS}))}"
        )
    first = way.first_patch
    if way.registers is not None:
        count = config.get(_REGISTERS, way.registers)
        if type(count) is not int or count < 0:
            raise EnvironmentMismatch(
                f"{place}: {_REGISTERS} must be a whole number, 0 or more, got {count!r}"
            )
        first += count
    if mode is None:
        usual = _usual(config, way)
        source = "config.json" if usual == "projection" else None
        return FeatureVector(usual, bool(normalize), first, source)
    if mode not in _ASKED:
        raise RecipeError(
            [f"model.pooling: images have no {mode}; give one of {', '.join(_ASKED)}, or remove it"]
        )
    if not way.asks:
        raise RecipeError(
            [
                f"model.pooling: is {mode}, and model type '{kind}' makes its vectors by layers of "
                f"its own; remove it"
            ]
        )
    return FeatureVector(_ASKED[mode], bool(normalize), first)


def _usual(config: ConfigFile, way: _Way) -> VectorMode:
    """Return how vectors are made where nobody asks."""
    named = [str(name) for name in config.get("architectures") or ()]
    projects = config.get("model_type") == "clip" or any(name.endswith(_PROJECTS) for name in named)
    if projects:
        return "projection"
    if way.mode == "pooler" and tower_of(config).get("vision_use_head") is False:
        return "patch_mean"  # SigLIP without its attention over patches
    return way.mode
