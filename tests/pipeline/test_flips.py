"""The report names each example that mattered, the worst first, and no text that must stay."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from compressor.data import Dataset
from compressor.measurements import Score
from compressor.pipeline.flips import MAX_IMAGES, MAX_TEXT, find_flips
from compressor.tasks import load_task

CLASSES, VECTORS = load_task("text-classification"), load_task("sentence-embedding")
NAMES = ("no", "yes", "maybe")


def scored(*rows: tuple[float, float, float]) -> Score:
    """Return the score of a model that gives these probabilities."""
    probabilities = np.array(rows, dtype=np.float32)
    kept = {"probabilities": probabilities}
    return Score("accuracy", 0.0, len(rows), probabilities.argmax(axis=1), kept=kept)


def split(labels: list[int] | None, texts: tuple = ("a", "b", "c", "d")) -> Dataset:
    chosen = None if labels is None else np.array(labels, dtype=np.int64)
    return Dataset("search", texts, chosen, np.array([10, 11, 12, 13]), "rows.csv")


BEFORE = scored((0.9, 0.1, 0.0), (0.6, 0.4, 0.0), (0.2, 0.8, 0.0), (0.5, 0.3, 0.2))
AFTER = scored((0.3, 0.7, 0.0), (0.4, 0.6, 0.0), (0.9, 0.1, 0.0), (0.1, 0.6, 0.3))


def test_what_was_lost_comes_first_and_the_largest_loss_before_all():
    # Row 10 falls from 0.9 to 0.3, row 11 from 0.6 to 0.4; row 12 becomes right; row 13 is wrong
    # both times.
    found = find_flips(CLASSES, split([0, 0, 0, 2]), BEFORE, AFTER, NAMES, with_examples=True)
    assert [(flip.row, flip.kind) for flip in found] == [(10, "lost"), (11, "lost"), (12, "won")]
    first = found[0]
    assert (first.text, first.label, first.before, first.after) == ("a", "no", "no", "yes")
    assert first.before_confidence == pytest.approx(0.9)
    assert first.after_confidence == pytest.approx(0.7)
    assert first.lost_confidence == pytest.approx(0.6)
    assert found[2].lost_confidence == pytest.approx(-0.7)


def test_of_the_won_ones_the_largest_gain_comes_first():
    found = find_flips(CLASSES, split([1, 1, 0, 1]), BEFORE, AFTER, NAMES, with_examples=True)
    assert [(flip.row, flip.kind) for flip in found] == [
        (12, "won"), (10, "won"), (13, "won"), (11, "won"),
    ]  # fmt: skip


def test_without_labels_every_changed_prediction_counts():
    found = find_flips(CLASSES, split(None), BEFORE, AFTER, NAMES, with_examples=True)
    assert {flip.kind for flip in found} == {"changed"}
    assert [flip.row for flip in found] == [12, 10, 13, 11]
    assert {flip.label for flip in found} == {None}


def test_texts_can_be_left_out():
    found = find_flips(CLASSES, split([0, 0, 0, 2]), BEFORE, AFTER, NAMES, with_examples=False)
    assert [flip.text for flip in found] == [None, None, None]


def test_a_long_text_is_cut_and_a_pair_stands_on_two_lines():
    texts = ("x" * 1000, ("first", "second"), "c", "d")
    found = find_flips(
        CLASSES, split([0, 0, 0, 2], texts), BEFORE, AFTER, NAMES, with_examples=True
    )
    assert found[0].text == "x" * (MAX_TEXT - 1) + "…"
    assert found[1].text == "first\nsecond"


def decoded(uri: str | None) -> np.ndarray:
    assert uri is not None
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_an_image_has_no_text_but_a_picture():
    images = tuple(np.full((2, 3), 10 * index, dtype=np.uint8) for index in range(4))
    found = find_flips(
        CLASSES, split([0, 0, 0, 2], images), BEFORE, AFTER, NAMES, with_examples=True
    )
    assert {flip.text for flip in found} == {None}
    assert [flip.row for flip in found] == [10, 11, 12]
    for index, flip in enumerate(found):
        assert np.array_equal(decoded(flip.image), images[index])


def test_a_large_image_is_shown_small():
    images = tuple(np.zeros((300, 200, 3), dtype=np.uint8) for _ in range(4))
    found = find_flips(
        CLASSES, split([0, 0, 0, 2], images), BEFORE, AFTER, NAMES, with_examples=True
    )
    assert decoded(found[0].image).shape == (64, 43, 3)


def test_only_the_worst_flips_have_a_picture_and_none_where_examples_must_stay():
    count = MAX_IMAGES + 5
    images = tuple(np.zeros((2, 2), dtype=np.uint8) for _ in range(count))
    labels = np.zeros(count, dtype=np.int64)
    data = Dataset("search", images, labels, np.arange(count), "digits")
    before = scored(*[(0.9, 0.1, 0.0)] * count)
    after = scored(*[(0.1, 0.9, 0.0)] * count)
    shown = find_flips(CLASSES, data, before, after, NAMES, with_examples=True)
    assert [flip.image is None for flip in shown] == [False] * MAX_IMAGES + [True] * 5
    hidden = find_flips(CLASSES, data, before, after, NAMES, with_examples=False)
    assert {flip.image for flip in hidden} == {None}


def test_without_probabilities_the_flips_stand_in_the_order_of_their_rows():
    before = Score("accuracy", 0.0, 4, BEFORE.outcomes)
    after = Score("accuracy", 0.0, 4, AFTER.outcomes)
    found = find_flips(CLASSES, split([0, 0, 0, 2]), before, after, NAMES, with_examples=True)
    assert [(flip.row, flip.lost_confidence) for flip in found] == [
        (10, None), (11, None), (12, None),
    ]  # fmt: skip


def test_the_same_predictions_are_no_flip():
    assert find_flips(CLASSES, split([0, 0, 0, 2]), BEFORE, BEFORE, NAMES, with_examples=True) == ()


def placed(*degrees: float) -> Score:
    """Return the score of an encoder that puts texts at these angles."""
    angles = np.deg2rad(degrees)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    similar = vectors @ vectors.T - 9 * np.eye(len(vectors))
    return Score("cosine", 0.0, len(degrees), similar.argmax(axis=1), kept={"vectors": vectors})


def test_of_vectors_the_texts_with_another_neighbour_are_named_the_most_moved_first():
    # Text b moves from beside a (20 degrees away) to beside c; a then is nearest to d.
    before, after = placed(0, 20, 100, 310), placed(0, 80, 100, 310)
    found = find_flips(VECTORS, split(None), before, after, (), with_examples=True)
    assert [(flip.text, flip.before, flip.after) for flip in found] == [
        ("b", "a", "c"), ("a", "b", "d"),
    ]  # fmt: skip
    assert found[0].lost_confidence == pytest.approx(1 - np.cos(np.deg2rad(60)))
    assert found[0].before_confidence == pytest.approx(np.cos(np.deg2rad(20)))
    assert found[0].after_confidence == pytest.approx(np.cos(np.deg2rad(20)))
    assert (found[0].kind, found[0].label) == ("changed", None)


def test_neighbours_are_named_by_their_rows_where_texts_must_stay():
    before, after = placed(0, 20, 100, 310), placed(0, 80, 100, 310)
    found = find_flips(VECTORS, split(None), before, after, (), with_examples=False)
    assert [(flip.row, flip.text, flip.before, flip.after) for flip in found] == [
        (11, None, "row 10", "row 12"),
        (10, None, "row 11", "row 13"),
    ]
