"""Each group of examples is judged by itself; one that cannot be formed is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compressor.certificate import certify_slices
from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import Score
from compressor.pipeline.slices import MAX_VALUES, judge_slices, slice_masks

NAMES = ("no", "yes")
TEXTS = ("a", "b c", "d e f", "g h i j", "k l m n o", "p q r s t u")
LABELS = np.array([0, 1, 0, 1, 1, 1])
SPLIT = Dataset(
    "search", TEXTS, LABELS, np.arange(6), "rows.csv",
    columns={"source": ("web", "web", "book", "", None, "book"), "id": tuple(range(6))},
)  # fmt: skip


def members(split: Dataset, *names: str) -> dict[str, list[int]]:
    masks = slice_masks(split, names, NAMES, "accuracy")
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def test_a_class_is_a_slice():
    assert members(SPLIT, "label") == {"label = no": [0, 2], "label = yes": [1, 3, 4, 5]}


def test_lengths_fall_into_thirds():
    assert members(SPLIT, "length") == {
        "length = 1 to 2 words": [0, 1],
        "length = 3 to 4 words": [2, 3],
        "length = 5 to 6 words": [4, 5],
    }


def test_texts_of_one_length_are_one_slice():
    split = dataclasses.replace(SPLIT, examples=("a", "b", "c", "d", "e", "f"))
    assert members(split, "length") == {"length = 1 word": [0, 1, 2, 3, 4, 5]}


def test_both_texts_of_a_pair_count():
    split = dataclasses.replace(SPLIT, examples=tuple((text, "z") for text in TEXTS))
    assert next(iter(members(split, "length"))) == "length = 2 to 3 words"


def test_every_example_is_in_exactly_one_slice_of_a_kind():
    random = np.random.default_rng(0)
    texts = tuple(" ".join(["x"] * count) for count in random.integers(1, 40, size=100))
    split = dataclasses.replace(SPLIT, examples=texts)
    masks = slice_masks(split, ("length",), NAMES, "accuracy")
    counts = sum(mask.astype(int) for mask in masks.values())
    assert np.array_equal(counts, np.ones(100))


def test_a_value_of_a_column_is_a_slice_and_so_are_the_rows_without_one():
    assert members(SPLIT, "source") == {
        "source = (none)": [3, 4],
        "source = book": [2, 5],
        "source = web": [0, 1],
    }


def test_a_column_with_a_value_for_every_row_is_refused():
    texts = tuple("x" for _ in range(MAX_VALUES + 1))
    split = dataclasses.replace(SPLIT, examples=texts, columns={"id": tuple(range(len(texts)))})
    with pytest.raises(RecipeError, match=r"budget\.slices: column 'id' has 51 values in data\.s"):
        slice_masks(split, ("id",), NAMES, "accuracy")


def test_label_needs_labels_and_length_needs_words():
    with pytest.raises(
        RecipeError, match=r"label needs labels of classes, and data\.search has none"
    ):
        slice_masks(dataclasses.replace(SPLIT, labels=None), ("label",), NAMES, "accuracy")
    sets = np.empty(len(TEXTS), dtype=object)
    sets[:] = [np.array([True, False])] * len(TEXTS)
    for labels in (sets, np.linspace(0, 1, len(TEXTS))):
        with pytest.raises(RecipeError, match=r"one class for each row, .* set budget\.max_missed"):
            slice_masks(dataclasses.replace(SPLIT, labels=labels), ("label",), NAMES, "accuracy")
    images = tuple(np.zeros((2, 2), dtype=np.uint8) for _ in TEXTS)
    with pytest.raises(RecipeError, match="images have none"):
        slice_masks(dataclasses.replace(SPLIT, examples=images), ("length",), NAMES, "accuracy")


def score(outcomes: np.ndarray) -> Score:
    return Score("f1_macro", 0.0, len(outcomes), outcomes)


def test_the_worst_slice_comes_first_with_the_numbers_of_its_certificate():
    # 2000 rows; of the rows of class 0 a tenth turns wrong, of class 1 none.
    labels = np.arange(2000) % 2
    split = dataclasses.replace(SPLIT, examples=("a",) * 2000, labels=labels, columns={})
    after = np.where(np.arange(2000) % 20 == 0, 1, labels)
    masks = slice_masks(split, ("label",), NAMES, "accuracy")
    found = judge_slices(
        split, masks, score(labels), score(after), max_drop=0.01, confidence=0.95, seed=0
    )
    assert [(item.name, item.verdict) for item in found] == [
        ("label = no", "refuted"), ("label = yes", "certified"),
    ]  # fmt: skip
    assert (found[0].num_examples, found[0].losses, found[0].drop) == (1000, 100, 0.1)
    expected = certify_slices(masks, labels == labels, after == labels, max_drop=0.01)
    assert found[0].lower_bound == expected["label = no"].lower_bound
    assert found[1].upper_bound == expected["label = yes"].upper_bound


def test_without_labels_a_changed_prediction_is_a_loss():
    split = dataclasses.replace(SPLIT, labels=None)
    before, after = np.zeros(6, dtype=np.int64), np.array([1, 0, 0, 0, 0, 0])
    masks = slice_masks(split, ("source",), NAMES, "accuracy")
    [web] = [
        item
        for item in judge_slices(
            split, masks, score(before), score(after), max_drop=0.1, confidence=0.95, seed=0
        )
        if item.name == "source = web"
    ]
    assert (web.losses, web.wins, web.drop) == (1, 0, 0.5)


def test_no_slices_no_verdicts():
    assert (
        judge_slices(SPLIT, {}, score(LABELS), score(LABELS), max_drop=0.1, confidence=0.9, seed=0)
        == ()
    )


def judged(labels: np.ndarray, columns: dict[str, tuple[str, ...]], name: str) -> dict[str, str]:
    """Return the verdicts about a model that stayed as it was and is right everywhere."""
    rows = ("a",) * len(labels)
    split = dataclasses.replace(SPLIT, examples=rows, labels=labels, columns=columns)
    masks = slice_masks(split, (name,), NAMES, "accuracy")
    same = score(labels)
    found = judge_slices(split, masks, same, same, max_drop=0.05, confidence=0.95, seed=0)
    return {item.name: item.verdict for item in found}


def test_a_slice_that_one_prediction_fits_is_not_certified():
    """Of the books one row in a hundred says yes: to say no to all of them costs a point."""
    labels = np.where(np.arange(2000) < 1000, np.arange(2000) % 100 == 0, np.arange(2000) % 2)
    columns = {"source": ("book",) * 1000 + ("web",) * 1000}
    found = judged(labels.astype(np.int64), columns, "source")
    assert found == {"source = book": "inconclusive", "source = web": "certified"}


def test_a_class_is_certified_where_the_checkpoint_does_not_predict_it_for_everything():
    labels = np.arange(1000) % 2
    assert judged(labels, {}, "label") == {"label = no": "certified", "label = yes": "certified"}
    rare = (np.arange(10_000) % 50 == 0).astype(np.int64)
    assert judged(rare, {}, "label") == {"label = no": "inconclusive", "label = yes": "certified"}
