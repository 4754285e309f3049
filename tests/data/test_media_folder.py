"""Folders of images as rows: order, classes, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.data import DataSettings, SplitSource, load_splits, most_rows
from compressor.data.media_folder import (
    IMAGES,
    SOUNDS,
    Media,
    media_columns,
    media_files,
    read_media_folder,
)
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.columns import ImageColumns


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    for value, name in enumerate(("dog/b.png", "dog/a.jpg", "cat/deep/c.PNG", "cat/d.bmp")):
        picture(place / name, 10 * value)
    (place / "cat" / ".hidden").write_text("x")
    (place / "dog" / "Thumbs.db").write_text("x")
    return place


def test_the_folder_of_an_image_is_its_class(folder: Path):
    table = read_media_folder(folder, IMAGES, ("image", "label"), ())
    assert table.columns["image"] == ["cat/d.bmp", "cat/deep/c.PNG", "dog/a.jpg", "dog/b.png"]
    assert table.columns["label"] == ["cat", "cat", "dog", "dog"]
    assert table.directory == folder
    assert media_files(folder, IMAGES) == [folder / path for path in table.columns["image"]]
    assert most_rows(SplitSource(images=folder)) == 4


def test_images_alone_have_no_label(tmp_path: Path):
    picture(tmp_path / "b.png", 1)
    picture(tmp_path / "a.png", 2)
    assert media_columns(tmp_path, IMAGES) == ["image"]
    assert read_media_folder(tmp_path, IMAGES, ("image",), ("label",)).columns == {
        "image": ["a.png", "b.png"]
    }
    with pytest.raises(RecipeError, match="no column 'label'"):
        read_media_folder(tmp_path, IMAGES, ("image", "label"), ())


def test_names_of_folders_are_matched_to_the_checkpoints_labels(folder: Path):
    settings = DataSettings(image="image", search=SplitSource(images=folder))
    splits = load_splits(
        settings, label_names=("dog", "cat"), columns=ImageColumns(), needed=["search"], seed=0
    )
    search = splits["search"]
    assert search.labels is not None
    assert search.labels.tolist() == [1, 1, 0, 0]
    assert [int(np.asarray(image)[0, 0]) for image in search.examples] == [30, 20, 10, 0]
    with pytest.raises(RecipeError, match="'cat' is not a label of the checkpoint"):
        load_splits(
            settings, label_names=("dog", "cow"), columns=ImageColumns(), needed=["search"], seed=0
        )


def test_images_beside_folders_are_refused(folder: Path):
    picture(folder / "loose.png", 1)
    with pytest.raises(RecipeError, match=r"images \(loose\.png\) lie beside folders \(cat, dog\)"):
        read_media_folder(folder, IMAGES, ("image",), ())


def test_a_file_that_is_no_image_is_refused(folder: Path):
    (folder / "cat" / "notes.txt").write_text("x")
    with pytest.raises(RecipeError, match=r"notes\.txt: is no image by its name"):
        read_media_folder(folder, IMAGES, ("image",), ())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="give a folder of images"):
        read_media_folder(tmp_path / "none", IMAGES, ("image",), ())


@pytest.mark.parametrize("media", [IMAGES, SOUNDS], ids=lambda media: media.nouns)
@pytest.mark.parametrize("inside", [(), ("cat", "dog/deep")], ids=["empty", "empty folders"])
def test_a_folder_without_any_file_says_what_belongs_there(
    media: Media, inside: tuple[str, ...], tmp_path: Path
):
    for name in inside:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(EnvironmentMismatch) as caught:
        read_media_folder(tmp_path, media, (media.column,), ())
    assert str(caught.value) == (
        f"{tmp_path}: holds no {media.nouns} ({', '.join(media.suffixes)}); give a folder of "
        f"{media.nouns}, relative to the recipe"
    )


def test_a_pipe_among_images_is_refused(folder: Path):
    os.mkfifo(folder / "cat" / "x.png")
    with pytest.raises(EnvironmentMismatch, match="reading it might never end"):
        read_media_folder(folder, IMAGES, ("image",), ())


def test_a_folder_and_a_file_are_two_origins(folder: Path):
    with pytest.raises(ValueError, match="needs exactly one of path, images"):
        SplitSource(images=folder, path=folder / "rows.csv")
