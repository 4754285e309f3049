"""Folders of images become the splits of a starter recipe by what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.errors import RecipeError
from compressor.starter.folder_splits import folder_splits


def folders(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).mkdir()
    return place


@pytest.mark.parametrize("names", [(), ("cat", "dog"), ("train", "cat"), (".cache",)])
def test_a_folder_of_classes_or_of_images_judges_as_a_whole(names: tuple[str, ...], tmp_path: Path):
    assert folder_splits(folders(tmp_path, *names)) == {"search": tmp_path}


def test_parts_are_found_by_their_names(tmp_path: Path):
    found = folder_splits(folders(tmp_path, "Train", "validation", "test"))
    assert found == {
        "train": tmp_path / "Train",
        "search": tmp_path / "validation",
        "certification": tmp_path / "test",
    }


def test_the_only_part_besides_train_judges(tmp_path: Path):
    found = folder_splits(folders(tmp_path, "train", "test"))
    assert found == {"train": tmp_path / "train", "search": tmp_path / "test"}


def test_a_train_part_alone_is_no_judge(tmp_path: Path):
    with pytest.raises(RecipeError, match="has train, and none of them is to judge by"):
        folder_splits(folders(tmp_path, "train"))


def test_a_recipe_s_own_names_of_splits_are_known(tmp_path: Path):
    found = folder_splits(folders(tmp_path, "train", "search", "certification"))
    assert found == {name: tmp_path / name for name in ("train", "search", "certification")}
