from __future__ import annotations

import os
from pathlib import Path

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.inspection.paths import find_onnx, inspect_path


@pytest.mark.parametrize(
    ("files", "given", "expected"),
    [
        (["model.onnx"], "model.onnx", "model.onnx"),
        (["manifest.json", "model.onnx"], ".", "model.onnx"),
        (["artifact/manifest.json", "artifact/model.onnx"], ".", "artifact/model.onnx"),
        (["model.onnx", "config.json"], ".", "model.onnx"),
        (["model.safetensors", "config.json"], ".", None),
        (["model.safetensors", "model.onnx"], ".", None),  # a checkpoint that brings an export
    ],
)
def test_what_a_path_is_follows_from_its_files(
    tmp_path: Path, files: list[str], given: str, expected: str | None
):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_onnx(tmp_path / given)
    assert found == (None if expected is None else tmp_path / expected)


def test_a_missing_onnx_file_is_not_taken_for_a_hub_id():
    with pytest.raises(EnvironmentMismatch, match=r"absent\.onnx: no such file"):
        find_onnx(Path("absent.onnx"))


def test_data_for_a_checkpoint_is_refused_before_it_is_loaded(tmp_path: Path):
    with pytest.raises(RecipeError, match="is a checkpoint"):
        inspect_path(str(tmp_path), data=tmp_path / "rows.csv", text="text")


def test_data_without_a_column_is_refused(tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(RecipeError, match="--data and --text belong together"):
        inspect_path(str(tmp_path / "model.onnx"), data=tmp_path / "rows.csv")


def test_an_onnx_file_that_is_a_pipe_is_refused_without_being_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx: is a named pipe, not a file"):
        find_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["x" * 5000, "loop"])
def test_an_impossible_name_is_no_onnx_file(tmp_path: Path, name: str):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert find_onnx(tmp_path / name) is None
