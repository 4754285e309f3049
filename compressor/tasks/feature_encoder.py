"""What modules share that give one vector for each image or sound, as config.json says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import transformers
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


@dataclass(frozen=True)
class AutoFeatureEncoder(ABC):
    """Chooses the class by the configuration, as transformers' auto classes do."""

    vector: FeatureVector

    key: ClassVar[str]  # of config.json, where it says how vectors are made

    @abstractmethod
    def around(self, base: type[Any]) -> type[Any]:
        """Return the class that gives vectors around a plain encoder's."""

    @property
    def _model_mapping(self) -> Any:
        return transformers.AutoModel._model_mapping

    def from_pretrained(self, directory: Any, *, config: Any, **options: Any) -> Any:
        """Load the weights, those of a plain encoder, or of one with other parts beside it."""
        return self._class_of(config).from_pretrained(directory, config=config, **options)

    def from_config(self, config: Any, *, dtype: torch.dtype) -> Any:
        """Return an encoder with random weights."""
        return self._class_of(config)._from_config(config, dtype=dtype)

    def _class_of(self, config: Any) -> type[Any]:
        setattr(config, self.key, self.vector.to_dict())
        return self.around(self._model_mapping[type(config)])
