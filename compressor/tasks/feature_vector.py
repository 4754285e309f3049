"""How a vector of an image or a sound is made of what an encoder computes, and stored so.

What is saved says it under a key of config.json, so that the vectors of a compressed checkpoint are
made like those of the original, whatever a recipe says later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.head import ConfigFile
from compressor.tasks.pooling import Pooling

# cls: the state of the class token. patch_mean: the mean over patches, without class token and
# registers. frame_mean: the mean over the frames of a sound that are no padding. pooler: the
# encoder's own pooled output. projection: that, through CLIP's projection.
VectorMode = Literal["cls", "patch_mean", "frame_mean", "pooler", "projection"]


@dataclass(frozen=True)
class FeatureVector:
    """How vectors are made, and which file says so (None: the recipe, or what is usual).

    `dimensions` are how many numbers of a vector stay, the first ones, before it gets length 1;
    None leaves it whole.
    """

    mode: VectorMode
    normalize: bool = False
    first_patch: int = 1  # states before those of patches
    source: str | None = None
    dimensions: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types that JSON can hold."""
        content = asdict(self)
        del content["source"]
        if self.dimensions is None:
            del content["dimensions"]
        return content

    @classmethod
    def from_dict(cls, content: ConfigFile) -> FeatureVector:
        """Return what `to_dict` made plain; raises `TypeError` for other keys."""
        return cls(**content)

    def pooling(self) -> Pooling:
        """Return what a report says about it."""
        return Pooling(self.mode, self.normalize, self.source)


def stored_vector(
    place: Path, key: str, stored: Any, known: tuple[VectorMode, ...]
) -> FeatureVector:
    """Return what config.json, `place`, says under `key`.

    Raises `EnvironmentMismatch` for what no encoder whose modes are `known` was saved with.
    """
    try:
        found = FeatureVector.from_dict({**stored, "source": "config.json"})
    except TypeError as error:
        raise EnvironmentMismatch(f"{place}: {key} cannot be read ({error}); copy it again") from (
            error
        )
    if found.mode not in known or type(found.normalize) is not bool:
        raise EnvironmentMismatch(
            f"{place}: mode of {key} must be one of {', '.join(known)}, and normalize true or "
            f"false, got {stored!r}"
        )
    if type(found.first_patch) is not int or found.first_patch < 0:
        raise EnvironmentMismatch(
            f"{place}: first_patch of {key} must be a whole number, 0 or more, got {stored!r}"
        )
    dimensions = found.dimensions
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise EnvironmentMismatch(
            f"{place}: dimensions of {key} must be a whole number, 1 or more, got {stored!r}"
        )
    return found


def require_same(
    found: FeatureVector,
    asked: Mapping[str, VectorMode],
    mode: str | None,
    normalize: bool | None,
) -> None:
    """Raise `RecipeError` where a recipe asks for other vectors than a checkpoint was saved with.

    `asked` are the modes by what a recipe calls them.
    """
    mistakes = []
    if mode is not None and asked.get(mode) != found.mode:
        mistakes.append(
            f"model.pooling: is {mode}, but config.json of the checkpoint says {found.mode}, and "
            f"its vectors would become others; remove it"
        )
    if normalize is not None and normalize != found.normalize:
        mistakes.append(
            f"model.normalize: is {str(normalize).lower()}, but config.json of the checkpoint says "
            f"{str(found.normalize).lower()}, and its vectors would become others; remove it"
        )
    if mistakes:
        raise RecipeError(mistakes)
