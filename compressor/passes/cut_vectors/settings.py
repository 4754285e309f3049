"""Cutting of vectors: the first numbers stay, so that an index of vectors becomes smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from compressor.passes.base import About, TorchPass
from compressor.passes.effort import Effort
from compressor.training.settings import Need


class CutVectors(TorchPass):
    """Keep the first numbers of each vector, scaled to length 1 again where vectors were.

    An index of vectors takes as much less room, and comparing two of them as much less time; the
    model itself stays as it is. An encoder that was trained for it (Matryoshka) loses little,
    any other more: the step's own score says how much. The cut is in the graph. In what is saved
    of a sentence encoder it is a Dense step that sentence-transformers computes; of an encoder of
    images config.json says it under `image_features`, which transformers does not read, so cut
    what that gives.

    Vectors of another width cannot be compared with those of the untouched checkpoint, so the
    metric has to be one of neighbours, grades or retrieval.

    Ref: Kusupati et al. 2022, arXiv:2205.13147.
    """

    kind: Literal["cut_vectors"] = "cut_vectors"

    about: ClassVar[About] = About(
        group="prune",
        summary="Keep the first numbers of vectors",
        explanation=(
            "Keeps the first numbers of each vector, for a smaller index of documents. Take it "
            "for encoders that were trained with Matryoshka representations."
        ),
        example="""\
passes:
  - kind: cut_vectors
    dimensions: 256
""",
    )

    dimensions: int = Field(gt=0, description="numbers of each vector that stay, the first ones")

    @property
    def incomparable(self) -> str:
        """Return that there are fewer."""
        return "changes how many numbers an output has"

    def needs(self) -> Iterator[Need]:
        """Yield that outputs must be vectors."""
        yield Need("kind", "vectors", "cuts vectors of texts, and {task} gives none; remove it")

    def effort(self, num_rows: Mapping[str, int]) -> Effort:  # noqa: ARG002 - it reads none
        """Return next to nothing."""
        return Effort(seconds=1.0)
