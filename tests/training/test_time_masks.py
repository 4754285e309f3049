"""SpecAugment masks sounds in training, but for batches that are shorter than one mask."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tasks.test_audio_features import loaded, of_samples, save
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.batches import TrainingBatch
from compressor.training.settings import TrainingSettings
from compressor.training.time_masks import time_masks_that_fit
from compressor.training.trainer import train
from compressor.training.training_run import Objective, TrainingRun

# A frame begins every 80 samples and takes 30 of them, and a mask is ten frames long.
NINE_FRAMES, TEN_FRAMES = 749, 750


def vectors_to_zero(module: nn.Module, batch: TrainingBatch) -> Tensor:
    return module(**batch.inputs).audio_embeds.square().mean()


def noise(lengths: list[int]) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.uniform(-0.5, 0.5, length).astype(np.float32) for length in lengths]


def hearing(kind: str, folder: Path, **more: Any) -> TorchModel:
    torch.manual_seed(0)
    return loaded(save(of_samples(kind, mask_time_prob=0.9, **more), folder))


def in_batch(model: TorchModel, lengths: list[int]) -> dict[str, Tensor]:
    batch = model.task.encode(model.preprocessor, model.task.given(noise(lengths)))
    return {name: torch.from_numpy(value) for name, value in batch.items()}


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
# Of torch, at what transformers gives it for WavLM.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
def test_sounds_that_are_shorter_than_a_mask_are_trained_on(
    kind: str, tmp_path: Path, training_run: TrainingRun
):
    model = hearing(kind, tmp_path / "model", layerdrop=0.0)
    short = noise([NINE_FRAMES, 300, 620, NINE_FRAMES])
    rows = Dataset("train", tuple(model.task.given(short)), None, np.arange(4), "made up")
    before = {name: value.clone() for name, value in model.module.named_parameters()}
    settings = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-2)
    run = dataclasses.replace(training_run, work_dir=tmp_path / "work")

    train(model, rows, settings, run, Objective(vectors_to_zero, {"loss": "of this test"}))

    changed = [n for n, value in model.module.named_parameters() if not value.equal(before[n])]
    assert any("encoder.layers.1" in name for name in changed)
    model.module.train()  # afterwards it is transformers' own again
    with pytest.raises(ValueError, match="`mask_length` has to be smaller"):
        model.module(**in_batch(model, [NINE_FRAMES]))


def test_masks_are_drawn_as_transformers_draws_them_for_sounds_that_are_long_enough(tmp_path: Path):
    model = hearing("Wav2Vec2", tmp_path / "model", hidden_dropout_prob=0.0, layerdrop=0.0)
    batch = in_batch(model, [TEN_FRAMES, 300])

    def computed() -> Tensor:
        np.random.seed(0)  # what transformers draws masks by
        torch.manual_seed(0)
        found: Tensor = model.module(**batch).audio_embeds
        return found.detach()

    whole = computed()
    model.module.train()
    masked = computed()
    assert not masked.allclose(whole, atol=1e-3)  # the long sound has one mask over all of it
    with time_masks_that_fit(model.module):
        assert computed().equal(masked)


def test_a_short_batch_is_computed_without_time_masks(tmp_path: Path):
    none = {f"{name}_dropout": 0.0 for name in ("hidden", "attention", "activation", "feat_proj")}
    model = hearing("Wav2Vec2", tmp_path / "model", layerdrop=0.0, **none)
    batch = in_batch(model, [NINE_FRAMES, 300])
    whole = model.module(**batch).audio_embeds
    model.module.train()
    with time_masks_that_fit(model.module):
        assert torch.allclose(model.module(**batch).audio_embeds, whole, atol=1e-6)
