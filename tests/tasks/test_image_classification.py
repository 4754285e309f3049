"""Images become normalised pixel batches."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.models.torch_model import TorchModel


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
