"""Labels and vectors of pictures; Pillow resizes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .lengths import by_length
from .pixels import ImageProcessor, given_images
from .predictions import chosen_labels
from .readers import Reader
from .session import Graph


class ImageReader(Reader):
    """One of several labels for each picture."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        self.processor = ImageProcessor.load(directory)

    def given(self, value: Any) -> list[Any]:
        """Return pictures as arrays of bytes; raises `ValueError` for what are none."""
        return given_images(value)

    def rows(self, graph: Graph, examples: Sequence[Any], batch_size: int) -> NDArray[Any]:
        """Return what the graph gives for each picture: `(num_examples, width)`."""
        found = [
            graph(self.processor([examples[place] for place in places]))
            for places in by_length([0] * len(examples), batch_size)  # pictures have one size
        ]
        return np.concatenate(found)

    def predictions(
        self, graph: Graph, examples: Sequence[Any], batch_size: int
    ) -> Sequence[Any] | NDArray[Any]:
        """Return the label with the largest logit of each picture."""
        return chosen_labels(self.rows(graph, examples, batch_size), self.labels)


class ImageVectorReader(ImageReader):
    """One vector for each picture."""

    output: ClassVar[str] = "image_embeds"

    def predictions(
        self, graph: Graph, examples: Sequence[Any], batch_size: int
    ) -> Sequence[Any] | NDArray[Any]:
        """Return the vectors, as the graph gives them."""
        return self.rows(graph, examples, batch_size)
