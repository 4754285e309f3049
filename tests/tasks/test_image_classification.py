"""Images become normalised pixel batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import TorchModel
from compressor.tasks import load_task


def test_pixels_are_scaled_to_minus_one_and_one(tiny_vit: TorchModel):
    black, white = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    pixels = tiny_vit.task.encode(tiny_vit.preprocessor, [black, white])["pixel_values"]
    assert pixels.shape == (2, 1, 8, 8)
    assert pixels.dtype == np.float32
    assert pixels[0] == pytest.approx(-1.0)
    assert pixels[1] == pytest.approx(1.0)


def test_images_of_another_size_are_resized(tiny_vit: TorchModel):
    image = np.full((20, 14), 255, np.uint8)
    pixels = tiny_vit.task.encode(tiny_vit.preprocessor, [image])["pixel_values"]
    assert pixels.shape == (1, 1, 8, 8)


def test_colour_becomes_grey_for_a_model_of_grey_images(tiny_vit: TorchModel):
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 255
    pixels = tiny_vit.task.encode(tiny_vit.preprocessor, [red])["pixel_values"]
    # ITU-R 601 luma: 0.299 * 255 = 76, then (76 / 255 - 0.5) / 0.5.
    assert pixels == pytest.approx(np.full((1, 1, 8, 8), 76 / 127.5 - 1), abs=1e-6)


def test_a_benchmark_batch_repeats_images_when_there_are_too_few(tiny_vit: TorchModel):
    image = np.zeros((8, 8), np.uint8)
    batch = tiny_vit.task.benchmark_batch(tiny_vit.preprocessor, [image], 3, None)
    assert batch["pixel_values"].shape == (3, 1, 8, 8)


BASE = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}
CROPPED = {
    **BASE,
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 10},
    "do_center_crop": True,
    "crop_size": {"height": 8, "width": 8},
}


def write_processor(folder: Path, settings: dict[str, Any], config: dict[str, Any]) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", **config}))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        BASE,
        {**BASE, "image_processor_type": "ViTImageProcessorFast"},
        {**BASE, "image_mean": 0.5, "image_std": 0.5},
        {**BASE, "do_normalize": False, "image_mean": None, "image_std": None},
        {**BASE, "do_rescale": False},
        {**BASE, "rescale_factor": 1 / 127.5},
        {**BASE, "resample": 0},
        CROPPED,
        {**CROPPED, "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True},
        {**CROPPED, "image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA"])
def test_pixels_are_those_of_transformers_own_processor(
    tmp_path: Path, settings: dict[str, Any], mode: str
) -> None:
    folder = write_processor(tmp_path, settings, {"num_channels": 3})
    random = np.random.default_rng(0)
    array = random.integers(0, 256, size=(13, 17, 3)).astype(np.uint8)
    picture = Image.fromarray(array).convert(mode)
    task = load_task("image-classification")
    preprocessor = task.load_preprocessor(folder)
    pixels = task.encode(preprocessor, task.given([picture]))["pixel_values"]
    own = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    expected = own(picture.convert("RGB"), return_tensors="np")["pixel_values"]
    assert pixels.shape[1] == 3
    assert pixels == pytest.approx(expected, abs=1e-6)


def test_an_image_of_three_rows_is_not_taken_for_one_of_three_channels(tmp_path: Path) -> None:
    folder = write_processor(tmp_path, {**BASE, "image_mean": 0.5, "image_std": 0.5}, {})
    task = load_task("image-classification")
    image = np.zeros((3, 20, 3), np.uint8)
    image[0] = 255  # the upper third is white
    pixels = task.encode(task.load_preprocessor(folder), [image])["pixel_values"]
    assert pixels.shape == (1, 3, 8, 8)
    assert (pixels[0, :, 0] > 0.9).all()
    assert (pixels[0, :, -1] < -0.9).all()


@pytest.mark.parametrize(
    "settings", [{**BASE, "do_resize": False}, {**CROPPED, "do_center_crop": False}]
)
def test_images_that_the_processor_leaves_at_several_sizes_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    task = load_task("image-classification")
    preprocessor = task.load_preprocessor(write_processor(tmp_path, settings, {}))
    images = [np.zeros((12, 12, 3), np.uint8), np.zeros((12, 18, 3), np.uint8)]
    with pytest.raises(EnvironmentMismatch, match="leaves images at several sizes"):
        task.encode(preprocessor, images)


def test_the_number_of_channels_is_that_of_the_config(tmp_path: Path) -> None:
    settings = {**BASE, "image_mean": 0.5, "image_std": 0.5}
    folder = write_processor(tmp_path, settings, {"num_channels": 1})
    task = load_task("image-classification")
    pixels = task.encode(task.load_preprocessor(folder), [np.zeros((8, 8, 3), np.uint8)])
    assert pixels["pixel_values"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_channels": 4}, "num_channels is 4; pictures have 1"),
        ({"num_channels": 1}, "has 3 numbers, and config.json says num_channels 1"),
    ],
)
def test_channels_that_no_picture_can_give_are_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    folder = write_processor(tmp_path, BASE, config)
    with pytest.raises(ValueError, match=words):
        load_task("image-classification").load_preprocessor(folder)


@pytest.mark.parametrize("size", [8, [8, 8]])
def test_the_example_that_is_traced_has_the_size_that_the_model_reads(
    tmp_path: Path, size: Any
) -> None:
    settings = {**BASE, "do_resize": False}
    task = load_task("image-classification")
    preprocessor = task.load_preprocessor(write_processor(tmp_path, settings, {"image_size": size}))
    batch = task.encode(preprocessor, [task.dummy_example(0)])
    assert batch["pixel_values"].shape == (1, 3, 8, 8)
