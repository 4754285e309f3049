"""A folder of sounds, and a task that the checkpoint alone does not say, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.test_audio_classification import save, wav
from tasks.test_audio_features import of_samples
from typer.testing import CliRunner

from compressor.cli import app
from compressor.errors import EnvironmentMismatch
from compressor.recipe.recipe import load_recipe


@pytest.fixture
def transcriber(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save(of_samples("Wav2Vec2", "ForCTC", vocab_size=9), tmp_path / "model")


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    random = np.random.default_rng(0)
    for row in range(80):
        noise = random.normal(size=1200 + 20 * row) * 3000
        (folder / f"{row:02}.wav").write_bytes(wav(noise.astype("<i2")))
    return folder


def test_a_folder_of_sounds_gets_a_recipe_for_the_task_that_is_asked_for(
    transcriber: Path, sounds: Path, tmp_path: Path
):
    recipe = tmp_path / "recipe.yaml"
    given = [str(transcriber), "--data", str(sounds), "--output", str(recipe)]
    done = CliRunner().invoke(app, ["init", *given, "--task", "audio-features"])
    assert done.exit_code == 0, done.output
    written = load_recipe(recipe)
    assert written.model.task == "audio-features"
    assert written.data.search is not None
    assert (tmp_path / str(written.data.search.sounds)).resolve() == sounds
    assert written.budget.metric == "audio_cosine"


def test_without_it_the_head_is_named_and_the_task_that_leaves_it_out(
    transcriber: Path, sounds: Path, tmp_path: Path
):
    recipe = tmp_path / "recipe.yaml"
    given = [str(transcriber), "--data", str(sounds), "--output", str(recipe)]
    done = CliRunner().invoke(app, ["init", *given])
    assert isinstance(done.exception, EnvironmentMismatch)
    assert "ForCTC transcribes speech" in str(done.exception)
    assert "--task audio-features" in str(done.exception)
    assert not recipe.exists()


def test_inspect_shows_the_encoder_below_a_head_when_it_is_asked_for(transcriber: Path):
    refused = CliRunner().invoke(app, ["inspect", str(transcriber), "--json"])
    assert isinstance(refused.exception, EnvironmentMismatch)
    done = CliRunner().invoke(
        app, ["inspect", str(transcriber), "--task", "audio-features", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["task"] == "audio-features"
