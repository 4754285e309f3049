"""Texts beside which images are seen: vectors of the encoder of texts in a pair with one of images.

CLIP and SigLIP tell what is in an image by the nearest of some texts (zero-shot classification:
Radford et al. 2021, arXiv:2103.00020, section 3.1). Several texts for one thing are one vector, the
mean of theirs at length 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

KEY = "model.zero_shot"
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ImageTexts:
    """Names of things with the texts for each, and their vectors, shape `(num_names, width)`."""

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    vectors: Vectors | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, given: Mapping[str, Sequence[str]] | Sequence[str]) -> ImageTexts:
        """Return what a recipe says: a list of texts, or texts for each name."""
        if isinstance(given, Mapping):
            return cls(tuple(given), tuple(map(tuple, given.values())))
        return cls(tuple(given), tuple((text,) for text in given))

    def facts(self) -> dict[str, Any]:
        """Return all that scores depend on, as plain data."""
        digest = None
        if self.vectors is not None:
            digest = hashlib.sha256(self.vectors.tobytes()).hexdigest()
        return {"names": self.names, "texts": self.texts, "vectors": digest}

    def nearest(self, vectors: Vectors) -> NDArray[np.int64]:
        """Return which name is nearest to each of `vectors` of images, shape `(num_images,)`.

        Of vectors that were cut the same first numbers are compared.
        """
        assert self.vectors is not None, "they were read with the checkpoint"
        found: NDArray[np.int64] = (vectors @ _unit(self.vectors[:, : vectors.shape[1]]).T).argmax(
            axis=1
        )
        return found

    def with_vectors(self, vectors: Vectors) -> Self:
        """Return the names with their vectors, by those of all texts: `(num_texts, width)`."""
        ends = np.cumsum([len(own) for own in self.texts])
        parts = np.split(_unit(vectors), ends[:-1])
        return replace(self, vectors=_unit(np.stack([part.mean(axis=0) for part in parts])))


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return found
