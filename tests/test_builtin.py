"""The built-in model is trained once, appears whole or not at all, and never sees the test part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor import builtin
from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import load_checkpoint
from compressor.progress import SILENT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache, and make training take two steps."""
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    short = builtin._SETTINGS.model_copy(update={"max_steps": 2})
    monkeypatch.setattr(builtin, "_SETTINGS", short)
    return tmp_path / "cache"


def test_any_other_checkpoint_is_left_alone():
    assert builtin.resolve_builtin("org/name", progress=SILENT) == "org/name"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(EnvironmentMismatch, match="there is: digits-vit"):
        builtin.resolve_builtin("builtin:cats", progress=SILENT)


def test_the_model_is_trained_once_and_then_found(cache: Path, monkeypatch: pytest.MonkeyPatch):
    place = builtin.resolve_builtin("builtin:digits-vit", progress=SILENT)
    assert load_checkpoint(place).labels == tuple("0123456789")
    assert [path.name for path in cache.iterdir()] == ["digits-vit-1"]
    monkeypatch.setattr(builtin, "_train_digits", None)
    assert builtin.resolve_builtin("builtin:digits-vit", progress=SILENT) == place


def test_training_that_is_interrupted_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin, "_train_digits", stop)
    with pytest.raises(KeyboardInterrupt):
        builtin.resolve_builtin("builtin:digits-vit", progress=SILENT)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EnvironmentMismatch, match="COMPRESSOR_CACHE"):
        builtin.resolve_builtin("builtin:digits-vit", progress=SILENT)


def test_shifting_moves_an_image_by_one_pixel_in_every_direction():
    image = np.zeros((3, 3), np.uint8)
    image[1, 1] = 7
    dataset = Dataset("train", (image,), np.array([4]), np.array([0]), "made")
    moved = builtin.shifted(dataset)
    # The bright pixel visits each of the nine places once, row by row.
    assert [int(np.argmax(shifted)) for shifted in moved.examples] == list(range(9))
    assert moved.labels is not None
    assert moved.labels.tolist() == [4] * 9
