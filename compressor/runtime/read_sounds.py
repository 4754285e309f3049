"""Labels and vectors of sounds, whose features NumPy computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .files import read_object
from .lengths import by_length
from .predictions import chosen_labels
from .readers import Reader
from .session import Graph
from .sounds import SoundInputs, SoundProcessor, given_sounds


class SoundReader(Reader):
    """One of several labels for each sound."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        config = read_object(directory / "config.json")
        self.inputs = SoundInputs.of(SoundProcessor.load(directory), config)
        self.max_length: int | None = manifest["max_length"]

    def given(self, value: Any) -> list[Any]:
        """Return sounds as arrays of samples; raises `ValueError` for what are none."""
        return given_sounds(value)

    def rows(self, graph: Graph, examples: Sequence[Any], batch_size: int) -> NDArray[Any]:
        """Return what the graph gives for each sound: `(num_examples, width)`.

        Raises `RecipeError` for a sound that is too short.
        """
        for place, sound in enumerate(examples):
            self.inputs.require_frame(sound, f"example {place}")
        # In the order of the examples, as the package reads them.
        batches = by_length([0] * len(examples), batch_size)
        found = [
            graph(self.inputs.batch([examples[place] for place in places], self.max_length))
            for places in batches
        ]
        return np.concatenate(found)

    def predictions(
        self, graph: Graph, examples: Sequence[Any], batch_size: int
    ) -> Sequence[Any] | NDArray[Any]:
        """Return the label with the largest logit of each sound."""
        return chosen_labels(self.rows(graph, examples, batch_size), self.labels)


class SoundVectorReader(SoundReader):
    """One vector for each sound."""

    output: ClassVar[str] = "audio_embeds"

    def predictions(
        self, graph: Graph, examples: Sequence[Any], batch_size: int
    ) -> Sequence[Any] | NDArray[Any]:
        """Return the vectors, as the graph gives them."""
        return self.rows(graph, examples, batch_size)
