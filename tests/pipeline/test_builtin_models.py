"""The built-in model is trained once, appears whole or not at all, and never sees the test part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import load_checkpoint
from compressor.pipeline import builtin_models as builtin
from compressor.progress import SILENT, Advance, Silent


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
    with pytest.raises(EnvironmentMismatch, match="there are: digits-vit, all-minilm-l6-v2"):
        builtin.resolve_builtin("builtin:cats", progress=SILENT)


def test_the_model_is_trained_once_and_then_found(cache: Path, monkeypatch: pytest.MonkeyPatch):
    place = builtin.resolve_builtin("builtin:digits-vit", progress=SILENT)
    assert load_checkpoint(place).labels == tuple("0123456789")
    shown = [path.name for path in cache.iterdir() if path.suffix != ".lock"]
    assert shown == ["digits-vit-1"]
    monkeypatch.setattr(builtin, "_train_digits", None)
    assert builtin.resolve_builtin("builtin:digits-vit", progress=SILENT) == place


def test_training_that_is_stopped_goes_on_and_ends_at_the_same_weights(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    place = Path(builtin.resolve_builtin("builtin:digits-vit", progress=SILENT))
    undisturbed = (place / "model.safetensors").read_bytes()
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(builtin, "_CHECKPOINT_SECONDS", 0.0)
    resumed = StopAfter(1)
    with pytest.raises(KeyboardInterrupt):
        builtin.resolve_builtin("builtin:digits-vit", progress=resumed)
    work = tmp_path / "second" / ".training-digits-vit-1"
    assert (work / "training.safetensors").is_file()
    (work / "model").mkdir()  # as if the process was killed while it saved
    going_on = StopAfter(3)
    place = Path(builtin.resolve_builtin("builtin:digits-vit", progress=going_on))
    assert going_on.advanced == [1, 1]  # one step that was done before, and one more
    assert (place / "model.safetensors").read_bytes() == undisturbed
    assert not work.exists()


class StopAfter(Silent):
    """A progress that stops the process, as Ctrl-C would, after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.advanced: list[int] = []

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        def advance(amount: int = 1, detail: str = "") -> None:
            self.advanced.append(amount)
            if len(self.advanced) == self.steps:
                raise KeyboardInterrupt

        yield advance


def test_a_second_process_waits_and_takes_what_the_first_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.mkdir()
    lock = FileLock(cache / ".training-digits-vit-1.lock")
    lock.acquire()
    monkeypatch.setattr(builtin, "_train_digits", None)
    said: list[str] = []

    class FirstEnds(Silent):
        def stage(self, title: str) -> None:
            said.append(title)
            (cache / "digits-vit-1").mkdir()
            (cache / "digits-vit-1" / "config.json").touch()
            lock.release()

    place = builtin.resolve_builtin("builtin:digits-vit", progress=FirstEnds())
    assert place == str(cache / "digits-vit-1")
    assert said == ["wait for another run, which trains the built-in model"]


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
