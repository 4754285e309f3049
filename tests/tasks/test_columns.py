from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.columns import ImageColumns, TextColumns, are_bare_ids, read_class_ids
from compressor.tasks.examples import image_of
from compressor.tasks.table import Table

LABELS = ("negative", "positive")


def table(**columns: list[Any]) -> Table:
    count = len(next(iter(columns.values())))
    return Table("dev.tsv", columns, lines=list(range(2, count + 2)))


def ids(values: list[Any], *, names: Sequence[str] | None = None) -> list[int]:
    found = read_class_ids(table(label=values), "label", labels=LABELS, data_names=names)
    assert found.dtype == np.int64
    return found.tolist()


def label_mistakes(values: list[Any], *, names: Sequence[str] | None = None) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        ids(values, names=names)
    return caught.value.mistakes


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ([1, 0, 1], None, [1, 0, 1]),
        (["1", "0"], None, [1, 0]),
        (["positive", "negative"], None, [1, 0]),
        (["positive"], None, [1]),
        (["good", "bad"], ("bad", "good"), [1, 0]),
        (["0", "1"], ("1", "0"), [1, 0]),
        ([1, 0], ("bad", "good"), [1, 0]),
        ([1, 0], ("1", "0"), [0, 1]),
    ],
)
def test_labels_are_ids_or_names(
    values: list[Any], names: Sequence[str] | None, expected: list[int]
) -> None:
    assert ids(values, names=names) == expected


@pytest.mark.parametrize("values", [[0, 7], ["0", "7"]])
def test_an_id_out_of_range_names_row_and_range(values: list[Any]) -> None:
    assert label_mistakes(values) == (
        "dev.tsv:3: label 7 is outside 0..1 (the checkpoint's labels: negative, positive)",
    )


def test_negative_ids_are_out_of_range() -> None:
    assert label_mistakes([-1])[0].startswith("dev.tsv:2: label -1 is outside 0..1")


def test_label_sets_that_differ_are_both_shown_with_the_first_row() -> None:
    assert label_mistakes(["positive", "neg", "pos"]) == (
        "dev.tsv:3: label 'neg' is not a label of the checkpoint; the data has neg, pos, positive, "
        "the checkpoint has negative, positive; list the data's names in data.label_names in the "
        "order of the classes negative, positive",
    )


def test_a_row_without_a_class_id_is_told_by_its_own_place() -> None:
    assert label_mistakes(["0", "1", "0", "nan", "1"]) == (
        "dev.tsv:5: label 'nan' is no class id, as most rows have, and no label of the checkpoint "
        "(negative, positive); correct the row, or remove it",
    )


def test_names_that_differ_in_spelling_alone_come_with_the_line_to_write() -> None:
    [mistake] = label_mistakes(["Posi-tive", "NEGATIVE", "Posi-tive"])
    assert mistake.endswith(
        "in the order of the classes negative, positive: label_names: [NEGATIVE, Posi-tive]"
    )


@pytest.mark.parametrize(
    ("values", "names", "bare"),
    [
        ([1, 0], LABELS, True),
        (["1", "0"], LABELS, True),
        (["positive"], LABELS, False),
        ([1, 0], ("1", "0"), False),
        (["0"], ("bad", "good"), True),
    ],
)
def test_numbers_that_name_no_class_are_bare_ids(
    values: list[Any], names: tuple[str, str], bare: bool
) -> None:
    assert are_bare_ids(values, names) is bare


def test_numbers_that_are_the_names_of_other_classes_are_bare_unless_the_recipe_lists_them():
    table = Table("rows.csv", {"label": ["0", "1", "1"]})
    found = TextColumns().labels(table, "label", ("1", "0"), None)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 0]
    assert found.has_bare_ids
    told = TextColumns().labels(table, "label", ("1", "0"), ("0", "1"))
    assert told.labels is not None
    assert told.labels.tolist() == [0, 1, 1]
    assert not told.has_bare_ids
    assert not TextColumns().labels(table, "label", ("0", "1"), None).has_bare_ids


def test_a_name_outside_label_names_is_a_mistake() -> None:
    [mistake] = label_mistakes(["good", "meh"], names=("bad", "good"))
    assert "'meh' is not a label of data.label_names" in mistake


def test_label_names_of_another_length_are_a_mistake() -> None:
    [mistake] = label_mistakes(["a"], names=("a", "b", "c"))
    assert mistake.startswith(
        "data.label_names: 3 names (a, b, c), but the checkpoint has 2 labels (negative, positive)"
    )


def test_the_checkpoints_own_names_in_another_order_are_a_mistake() -> None:
    [mistake] = label_mistakes(["positive", "negative"], names=("positive", "negative"))
    assert mistake == (
        "data.label_names: these are the checkpoint's own labels in another order (negative, "
        "positive), so that 'positive' in the data would be read as 'negative'; labels that are "
        "names need no label_names, so remove it; if they are numbers, and these their names in "
        'order, give the numbers in the checkpoint\'s order: label_names: ["1", "0"]'
    )


def test_the_order_that_the_mistake_gives_reads_numbers_by_name() -> None:
    assert ids([0, 1, 1], names=("1", "0")) == [1, 0, 0]


def test_numbers_that_are_the_checkpoints_names_may_stand_in_another_order() -> None:
    found = read_class_ids(table(label=[0, 1]), "label", labels=("0", "1"), data_names=("1", "0"))
    assert found.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (None, "label is missing"),
        (float("nan"), "label is missing"),
        (1.5, "must be a whole number or text"),
        (True, "must be a whole number or text"),
        ("x", "the same in every row"),
    ],
)
def test_a_label_that_is_neither_id_nor_name_is_named_by_row(value: Any, part: str) -> None:
    [mistake] = label_mistakes([0, value])
    assert mistake.startswith("dev.tsv:3: label ")
    assert part in mistake


def test_an_empty_label_is_missing() -> None:
    assert label_mistakes(["positive", ""])[0].startswith("dev.tsv:3: label is missing")


def test_texts_and_pairs_are_taken_in_the_order_of_the_rows_asked_for() -> None:
    rows = table(a=["x", "y", "z"], b=["1", "2", "3"])
    assert TextColumns().examples(rows, ("a",), [2, 0]) == ("z", "x")
    assert TextColumns().examples(rows, ("a", "b"), [1]) == (("y", "2"),)


def test_bad_texts_are_all_named_by_row() -> None:
    rows = table(text=["fine", "", None, float("nan"), "  ", 5, "\ud800"])
    with pytest.raises(RecipeError) as caught:
        TextColumns().examples(rows, ("text",), range(7))
    assert caught.value.mistakes == (
        "dev.tsv:3: text is empty; remove the row or fill it in",
        "dev.tsv:4: text is missing; remove the row or fill it in",
        "dev.tsv:5: text is missing; remove the row or fill it in",
        "dev.tsv:6: text is empty; remove the row or fill it in",
        "dev.tsv:7: text must be text, got 5",
    )


def test_half_of_a_surrogate_pair_in_a_text_is_a_mistake() -> None:
    with pytest.raises(RecipeError) as caught:
        TextColumns().examples(table(text=["\ud800"]), ("text",), [0])
    assert "surrogate" in caught.value.mistakes[0]


GREY = np.array([[0, 128], [255, 7]], dtype=np.uint8)
COLOUR = np.array([[[255, 0, 0], [0, 255, 0]]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (png(GREY), GREY),
        ({"bytes": png(GREY), "path": None}, GREY),
        (png(GREY, "LA"), GREY),
        (png(COLOUR), COLOUR),
        (png(COLOUR, "RGBA"), COLOUR),
        (png(COLOUR, "P"), COLOUR),
        (png(np.array([[0, 256, 65535]], dtype=np.uint16)), np.array([[0, 1, 255]], np.uint8)),
        (GREY, GREY),
        (GREY[:, :, None], GREY),
        (GREY.tolist(), GREY),
        (COLOUR.tolist(), COLOUR),
    ],
)
def test_images_become_grey_or_colour_bytes(value: Any, expected: np.ndarray) -> None:
    [example] = ImageColumns().examples(table(image=[value]), ("image",), [0])
    image = image_of(example)
    assert image is not None
    assert (image.dtype, image.tolist()) == (np.uint8, expected.tolist())


def test_image_paths_are_relative_to_the_data_file(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(GREY))
    rows = Table("dev.csv", {"image": ["images/a.png"]}, directory=tmp_path)
    [example] = ImageColumns().examples(rows, ("image",), [0])
    image = image_of(example)
    assert image is not None
    assert image.tolist() == GREY.tolist()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([[0, 256]], "pixels must be whole numbers from 0 to 255"),
        (GREY / 255, "pixels must be whole numbers from 0 to 255"),
        (np.zeros((2, 2, 4), np.uint8), "must have the shape"),
        ([[1, 2], [3]], "the lists are no image"),
    ],
)
def test_arrays_that_are_no_pixels_are_refused_with_their_row(value: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=rf"^dev\.tsv:2: .*{words}"):
        ImageColumns().examples(table(image=[value]), ("image",), [0])


def test_an_image_that_was_removed_after_it_was_looked_at_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(GREY))
    rows = Table("dev.csv", {"image": ["a.png"]}, directory=tmp_path)
    [example] = ImageColumns().examples(rows, ("image",), [0])
    (tmp_path / "a.png").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"^dev\.csv: row 0 .*the image .*a\.png"):
        image_of(example)


@pytest.mark.parametrize("value", ["absent.png", b"not an image", png(GREY)[:40]])
def test_an_absent_or_damaged_image_is_an_environment_mismatch(value: Any) -> None:
    with pytest.raises(EnvironmentMismatch, match=r"^dev\.tsv:2: the image"):
        ImageColumns().examples(table(image=[value]), ("image",), [0])


def test_pixels_without_a_known_range_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.array([[0.5]], dtype=np.float32)).save(stream, "TIFF")
    with pytest.raises(EnvironmentMismatch, match="pixel format F"):
        ImageColumns().examples(table(image=[stream.getvalue()]), ("image",), [0])


def test_an_image_that_another_program_would_draw_is_refused() -> None:
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(EnvironmentMismatch, match=r"EPS is a program that draws; save it as PNG"):
        ImageColumns().examples(table(image=[content]), ("image",), [0])


@pytest.mark.parametrize("value", [None, "", {"bytes": None, "path": None}, 5])
def test_a_missing_image_is_a_mistake(value: Any) -> None:
    with pytest.raises(RecipeError, match="the image is missing"):
        ImageColumns().examples(table(image=[value]), ("image",), [0])


def test_an_image_on_the_network_is_not_looked_for_on_the_disk() -> None:
    with pytest.raises(RecipeError, match=r"^dev\.tsv:2: the image is an address, 'https:"):
        ImageColumns().examples(table(image=["https://example.org/a.png"]), ("image",), [0])


def test_whole_numbers_that_were_stored_as_floats_are_ids() -> None:
    assert ids([1.0, 0.0, 1.0]) == [1, 0, 1]


def test_a_float_that_is_missing_or_no_whole_number_is_named_by_its_row() -> None:
    assert label_mistakes([1.0, float("nan")])[0].startswith("dev.tsv:3: label is missing")
    assert label_mistakes([1.0, 0.5])[0].startswith("dev.tsv:3: label must be a whole number")


@pytest.mark.parametrize("value", [["a", "b"], {"en": "a"}, 7, b"\xff" * 1000])
def test_a_text_that_is_something_else_is_named_in_few_words(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"^dev\.tsv:2: text must be text, got") as caught:
        TextColumns().examples(table(text=[value]), ("text",), [0])
    assert len(str(caught.value)) < 120


def test_an_image_that_is_a_pipe_or_a_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    rows = Table("dev.csv", {"image": ["a.png", "b.png"]}, directory=tmp_path)
    with pytest.raises(EnvironmentMismatch, match=r"a\.png is a named pipe, not a file"):
        ImageColumns().examples(rows, ("image",), [0])
    with pytest.raises(EnvironmentMismatch, match=r"b\.png is a directory, not a file"):
        ImageColumns().examples(rows, ("image",), [1])


def test_grades_are_no_classes():
    table = Table("rows.csv", {"label": ["0.25", "1.0", ".5"]})
    with pytest.raises(RecipeError, match=r"rows\.csv.* '0\.25' is a number with a fraction"):
        TextColumns().labels(table, "label", ("no", "yes"), None)
    named = TextColumns().labels(table, "label", ("a", "b", "c"), (".5", "0.25", "1.0"))
    assert named.labels is not None
    assert named.labels.tolist() == [1, 2, 0]
