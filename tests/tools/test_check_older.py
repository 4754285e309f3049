"""Checkpoints of another release, and whether one that is read otherwise is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_older")


@pytest.fixture(scope="module")
def written(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    assert tool.write(folder, ["bert"]) == 0
    return folder


def test_settings_that_move_logits_are_written_and_read_as_they_were(
    tool: ModuleType, written: Path, capsys: pytest.CaptureFixture[str]
):
    names = {path.name for path in written.iterdir()}
    assert {"bert as it is", "bert hidden_act relu"} <= names
    assert tool.read(written) == 0
    assert f"{len(names)} the same, 0 refused, 0 wrong" in capsys.readouterr().out


def test_what_is_read_otherwise_has_to_be_refused(
    tool: ModuleType, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    place = tmp_path / "bert"
    shutil.copytree(written / "bert as it is", place)
    expected = np.load(place / "logits.npy")
    np.save(place / "logits.npy", expected + 1)
    assert tool.read(tmp_path) == 1
    apart = 1 / max(1, np.abs(expected + 1).max())
    assert f"bert: {apart:.1e} apart, and READ" in capsys.readouterr().out
    settings = json.loads((place / "config.json").read_text())
    settings["position_embedding_type"] = "relative_key"
    (place / "config.json").write_text(json.dumps(settings))
    assert tool.read(tmp_path) == 1  # nothing at all was the same
    assert "apart, refused: " in capsys.readouterr().out
