"""What modules share that give one vector for each image or sound, as config.json says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from compressor.tasks.feature_vector import FeatureVector


def vector_of(config: Any, key: str) -> FeatureVector:
    """Return how vectors are made, as a configuration says under `key`."""
    return FeatureVector.from_dict(getattr(config, key))


def kept_width(config: Any, key: str, whole: int) -> int:
    """Return how many numbers vectors have, of which the encoder gives `whole`."""
    dimensions = vector_of(config, key).dimensions
    return whole if dimensions is None else min(dimensions, whole)


def cut_features(module: Any, key: str, width: int, dimensions: int) -> None:
    """Leave out all of the `width` numbers of a module's vectors after the first, in place.

    Where vectors were scaled to length 1, those that are left are again. Raises `ValueError` unless
    there are more than `dimensions`.
    """
    if dimensions >= width:
        raise ValueError(f"vectors have {width} numbers, so there is nothing to leave out")
    changed = replace(vector_of(module.config, key), dimensions=dimensions)
    setattr(module.config, key, changed.to_dict())


def finished(found: Tensor, vector: FeatureVector) -> Tensor:
    """Return vectors, shape `(batch, width)`, cut and scaled as `vector` says."""
    if vector.dimensions is not None:
        found = found[:, : vector.dimensions]
    return functional.normalize(found, dim=-1) if vector.normalize else found
