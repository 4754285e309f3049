"""An artifact predicts for lists of texts, pairs or images, and refuses everything else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.tasks import load_task

TEXT = load_task("text-classification")
IMAGE = load_task("image-classification")
GREY = np.array([[0, 128], [255, 7], [1, 2]], dtype=np.uint8)
RED = np.full((4, 5, 3), (255, 0, 0), dtype=np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        ["a", ""],
        ("a", ""),
        np.array(["a", ""]),
        np.array(["a", ""], dtype=object),
        (text for text in ("a", "")),
    ],
)
def test_texts_in_any_ordered_collection_are_a_list_of_texts(value: Any) -> None:
    found = TEXT.given(value)
    assert found == ["a", ""]
    assert [type(text) for text in found] == [str, str]


@pytest.mark.parametrize("value", [[("a", "b")], [["a", "b"]], np.array([["a", "b"]])])
def test_a_pair_may_be_a_tuple_or_a_list(value: Any) -> None:
    assert TEXT.given(value, pairs=True) == [("a", "b")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a good film", "not a bare string"),
        (b"a good film", "not a bare row of bytes"),
        ([], "got an empty one"),
        (None, "got NoneType"),
        (5, "got int"),
        ({"text": "a"}, "got dict"),
        ({"a"}, "got set"),
        (np.array("a"), "got an array without axes"),
        ([None], r"example 0: must be a text or a pair of texts, got nothing \(null\)"),
        (["a", float("nan")], "example 1: must be a text or a pair of texts, got nan"),
        ([3], "example 0: must be a text or a pair of texts, got 3"),
        ([b"a"], "example 0: must be a text or a pair of texts, got bytes"),
        ([["a"]], "example 0: must be a text or a pair of texts, got a list of 1 entry"),
        ([["a", "b", "c"]], "got a list of 3 entries"),
        ([("a", None)], r"of texts, and the second is nothing \(null\)"),
        ([(["a"], "b")], "of texts, and the first is a list of 1 entry"),
        (["\ud800"], "example 0: half of a surrogate pair is no character"),
        (["a", ("b", "c")], "the examples are texts and pairs of texts"),
        ([GREY], "example 0: must be a text or a pair of texts, got ndarray"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TEXT.given(value)


def test_a_text_where_pairs_were_measured_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(ValueError, match=r"example 0: this model reads pairs of texts, as \(first"):
        TEXT.given(("a", "b"), pairs=True)
    with pytest.raises(ValueError, match="example 0: this model reads single texts, got a pair"):
        TEXT.given([("a", "b")], pairs=False)
    with pytest.raises(ValueError, match="this model reads single texts, got a pair"):
        load_task("sentence-embedding").given([("a", "b")])


def test_images_are_arrays_of_bytes_or_opened_pictures() -> None:
    integers = GREY.astype(np.int64)
    found = IMAGE.given([GREY, RED, integers, GREY[:, :, None], Image.fromarray(GREY)])
    assert [image.tolist() for image in found] == [  # type: ignore[union-attr]
        GREY.tolist(),
        RED.tolist(),
        GREY.tolist(),
        GREY.tolist(),
        GREY.tolist(),
    ]
    assert {image.dtype for image in found} == {np.dtype(np.uint8)}  # type: ignore[union-attr]


def test_a_batch_of_images_in_one_array_is_a_list_of_them() -> None:
    assert len(IMAGE.given(np.stack([RED, RED]))) == 2
    assert len(IMAGE.given(np.zeros((6, 8, 8), np.uint8))) == 6
    [image] = IMAGE.given([torch.from_numpy(GREY)])
    assert np.array_equal(image, GREY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (GREY, "not a bare image"),
        (RED, "not a bare image"),
        (Image.fromarray(RED), "not a bare image"),
        ("a.png", "not a bare string"),
        (["a.png"], r"example 0: must be an image, .* got 'a\.png'"),
        ([None], "example 0: must be an image"),
        ([GREY.tolist()], "got a list of 3 entries"),
        ([RED / 255], "whole numbers from 0 to 255"),
        ([RED > 0], "whole numbers from 0 to 255"),
        ([GREY.astype(np.int16) * 3], "whole numbers from 0 to 255"),
        ([np.zeros((0, 4), np.uint8)], "whole numbers from 0 to 255"),
        ([RED.transpose(2, 0, 1)], r"must have the shape .* got \(3, 4, 5\)"),
        ([np.zeros((2, 2, 4), np.uint8)], r"got \(2, 2, 4\)"),
        ([np.zeros(4, np.uint8)], r"got \(4,\)"),
        ([Image.fromarray(GREY / np.float32(255))], "pixel format F"),
    ],
)
def test_what_is_no_list_of_images_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        IMAGE.given(value)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_an_opened_picture_of_another_format_gives_its_colours(mode: str) -> None:
    [image] = IMAGE.given([Image.fromarray(RED).convert(mode)])
    assert np.array_equal(image, RED)  # type: ignore[arg-type]


def test_a_picture_that_its_camera_turned_is_turned_back() -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: shown after a quarter turn clockwise
    Image.fromarray(GREY).save(stream, "PNG", exif=exif)
    [image] = IMAGE.given([Image.open(stream)])
    assert np.array_equal(image, np.rot90(GREY, -1))  # type: ignore[arg-type]
