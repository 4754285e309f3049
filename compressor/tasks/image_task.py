"""What every task on images shares: the image processor, and how images become pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch
from compressor.paths import require_plain_files
from compressor.runtime.pixels import ImageProcessor, with_channels
from compressor.tasks.base import Batch, Task
from compressor.tasks.columns import Columns, ImageColumns
from compressor.tasks.examples import Example, image_of
from compressor.tasks.given import from_base64, given_images
from compressor.tasks.head import ConfigFile
from compressor.tasks.hiding import Cell, Hiding, Part, cells_of, chunks
from compressor.tasks.pooling import read_config
from compressor.tasks.stored_image import Gradient, StoredImage

# Plain onnxruntime for the model card, up to the pixels; a template like `TOKENS_CODE`.
PIXELS_CODE = """\
import numpy as np
import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained(".", backend="pil")
session = onnxruntime.InferenceSession("model.onnx", providers=[{provider}])
[node] = session.get_inputs()
image = np.asarray(Image.open("image.png").convert("L" if node.shape[1] == 1 else "RGB"))
image = image.reshape(*image.shape[:2], -1)  # (height, width, channels)
pixels = processor([image], return_tensors="np")["pixel_values"].astype(np.float32)
"""

PIXELS_WORDS = (  # for `ReportWords.inputs`
    "Input `pixel_values`: float32 of shape (batch, channels, height, width), prepared as "
    "`preprocessor_config.json` says."
)

_HIDDEN_AT_ONCE = 16  # images with a cell hidden
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class ImageTask(Task):
    """Images are resized and normalised as the checkpoint's image processor says."""

    input_column: ClassVar[str] = "image"
    main_input: ClassVar[str] = "pixel_values"
    preprocessor_name: ClassVar[str] = "image processor"
    reads_tokens: ClassVar[bool] = False

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return images, and class ids."""
        return ImageColumns()

    @classmethod
    def require_files(cls, directory: Path) -> None:
        """Raise `OSError` when there is no file that describes an image processor."""
        require_plain_files(directory)
        if not any((directory / name).is_file() for name in _PROCESSOR_FILES):
            raise FileNotFoundError(f"none of {', '.join(_PROCESSOR_FILES)} lies in {directory}")

    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the image processor; its Pillow form, because torchvision is not required.

        Raises `OSError` when its file is missing.
        """
        from transformers import AutoImageProcessor

        self.require_files(Path(directory))
        load: Any = AutoImageProcessor.from_pretrained  # transformers leaves it untyped
        processor = load(directory, backend="pil", trust_remote_code=False)
        config = read_config(Path(directory))
        return ImageReader(processor, _channels(processor, config), _size(config))

    def light_preprocessor(self, directory: Path) -> Any:
        """Return a processor that resizes, crops, rescales and normalises; None for more."""
        self.require_files(directory)
        if not ImageProcessor.is_plain(directory):
            return None
        processor = ImageProcessor.load(directory)
        return ImageReader(processor, processor.channels, _size(read_config(directory)))

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return pictures as arrays of bytes; those of Pillow in any pixel format."""
        return given_images(value)

    def received(self, value: Any, place: str) -> Any:
        """Return the image of a file in base64, decoded."""
        return StoredImage(from_base64(value, place), place).pixels

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Return `pixel_values`, float32 of shape `(batch, channels, height, width)`.

        A checkpoint of colour images gets grey ones three times, one of grey images the luma.

        Raises `EnvironmentMismatch` where the processor leaves images at several sizes.
        """
        reader = preprocessor
        if not isinstance(reader, ImageReader):
            reader = ImageReader(preprocessor, _channels(preprocessor, {}))
        images = [reader.image(example) for example in examples]
        return {"pixel_values": reader.pixels(images)}

    def hidings(self, preprocessor: Any) -> tuple[Hiding, ...]:  # noqa: ARG002 - any will do
        """Return that cells get the mean colour of their image."""
        return ("mean colour",)

    def pieces(self, preprocessor: Any, example: Example, most: int) -> tuple[Part, ...]:  # noqa: ARG002
        """Return the cells of a grid over the image, however many pixels it has."""
        return cells_of(*_pixels_of(example).shape[:2])

    def with_hidden(
        self,
        preprocessor: Any,
        example: Example,
        pieces: Sequence[Part],
        hiding: Hiding,  # noqa: ARG002 - there is one
    ) -> Iterator[Batch]:
        """Yield images in which one cell has the mean colour."""
        pixels = _pixels_of(example)
        mean = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
        images = [pixels]
        for piece in pieces:
            if isinstance(piece, Cell):
                image = pixels.copy()
                image[piece.top : piece.bottom, piece.left : piece.right] = mean
                images.append(image)
        for part in chunks(len(images), _HIDDEN_AT_ONCE):
            yield self.encode(preprocessor, images[part.start : part.stop])

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
        """Return a grey gradient of the size that the model reads."""
        return Gradient()


def _pixels_of(example: Example) -> NDArray[np.uint8]:
    found = image_of(example)
    assert found is not None, "the task reads nothing else"
    return found


@dataclass(frozen=True)
class ImageReader:
    """An image processor of transformers, with the number of channels that its model reads."""

    processor: Any
    num_channels: int
    size: tuple[int, int] = (32, 32)  # height and width that the model reads, where that is known

    @property
    def kind(self) -> str:
        """Return what transformers calls the processor."""
        return type(self.processor).__name__

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the processor's settings; the channels stand in config.json."""
        self.processor.save_pretrained(directory)

    def image(self, example: Example) -> NDArray[np.uint8]:
        """Return the image that an example is, decoded."""
        if isinstance(example, Gradient):
            return example.pixels(*self.size)
        found = image_of(example)
        assert found is not None, "the task reads nothing else"
        return found

    def pixels(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return `(batch, channels, height, width)`."""
        arrays = [with_channels(image, self.num_channels) for image in images]
        # Left out, the format is guessed from the shape, wrongly for three rows of pixels.
        found = self.processor(arrays, input_data_format="channels_last")["pixel_values"]
        sizes = sorted({np.shape(item) for item in found})
        if len(sizes) > 1:
            shown = " and ".join("x".join(map(str, size[-2:])) for size in sizes[:2])
            raise EnvironmentMismatch(
                f"the image processor ({self.kind}) leaves images at several sizes, such as "
                f"{shown}, and a model takes one; set do_resize, and size with height and width, "
                f"in preprocessor_config.json, or give images of one size"
            )
        return np.stack([np.asarray(item, dtype=np.float32) for item in found])


def _size(config: ConfigFile) -> tuple[int, int]:
    """Return the height and width that config.json says, else 32 pixels each."""
    said = config.get("image_size", _inside(config).get("image_size"))
    if type(said) is int and said > 0:
        return said, said
    if isinstance(said, list | tuple) and len(said) == 2:
        return int(said[0]), int(said[1])
    return 32, 32


def _inside(config: ConfigFile) -> ConfigFile:
    """Return what config.json says of the encoder where that is a part of it."""
    nested = config.get("vision_config") or config.get("backbone_config") or {}
    return nested if isinstance(nested, Mapping) else {}


def _channels(processor: Any, config: ConfigFile) -> int:
    """Return how many channels a model reads: as config.json says, else one for each mean.

    Raises `ValueError` for a number that no picture has, and where the two disagree.
    """
    said = config.get("num_channels", _inside(config).get("num_channels"))
    mean = getattr(processor, "image_mean", None) if _normalizes(processor) else None
    means = len(mean) if isinstance(mean, list | tuple) else None
    if said is None:
        said = 3 if means is None else means
    if said not in (1, 3):
        raise ValueError(f"num_channels is {said}; pictures have 1 (grey) or 3 (colour)")
    if means not in (None, said):
        raise ValueError(
            f"image_mean in preprocessor_config.json has {means} numbers, and config.json says "
            f"num_channels {said}"
        )
    return int(said)


def _normalizes(processor: Any) -> bool:
    return bool(getattr(processor, "do_normalize", False))
