"""Image classification: one image in, one label out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compressor.tasks._base import Batch, Example
from compressor.tasks._classification import Classification


class ImageClassification(Classification):
    """Images are resized and normalised as the checkpoint's image processor says."""

    name: ClassVar[str] = "image-classification"
    head: ClassVar[str] = "ForImageClassification"
    input_column: ClassVar[str] = "image"
    has_sequence: ClassVar[bool] = False

    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the image processor; its Pillow form, because torchvision is not required."""
        from transformers import AutoImageProcessor

        load: Any = AutoImageProcessor.from_pretrained  # transformers leaves it untyped
        return load(directory, backend="pil", trust_remote_code=False)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Return `pixel_values`, float32 of shape `(batch, channels, height, width)`.

        A checkpoint of colour images gets grey ones three times, one of grey images the luma.
        """
        mean = preprocessor.image_mean
        channels = len(mean) if isinstance(mean, list | tuple) else 1
        images = [_with_channels(np.asarray(image, dtype=np.uint8), channels) for image in examples]
        pixels = preprocessor(images, return_tensors="np")["pixel_values"]
        return {"pixel_values": np.asarray(pixels, dtype=np.float32)}

    def benchmark_batch(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        batch_size: int,
        sequence_length: int | None,  # noqa: ARG002 - images have none
    ) -> Batch:
        """Return the first images, again from the start when there are too few."""
        return self.encode(preprocessor, list(islice(cycle(examples), batch_size)))

    def dummy_example(self, length: int) -> Example:  # noqa: ARG002
        """Return a grey gradient that the image processor resizes."""
        return np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))


def _with_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Return the image as `(height, width, channels)`."""
    if image.ndim == 3 and image.shape[2] == channels:
        return image
    grey = image if image.ndim == 2 else np.asarray(Image.fromarray(image.squeeze()).convert("L"))
    return np.repeat(grey[:, :, None], channels, axis=2)
