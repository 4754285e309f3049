"""Which rows the end of a run shows, and what it says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from compressor.artifact import Artifact
from compressor.data import Dataset
from compressor.measurements import PredictionRecord, Score
from compressor.pipeline.predictions import sample_predictions
from compressor.tasks import Task, load_task

LONG = "a sentence of more than eighty characters is not what anyone reads first, so it comes last"


class FakeArtifact:
    """Predicts by a table, and remembers what it was asked."""

    manifest: ClassVar[dict[str, Any]] = {"labels": ["no", "yes"]}

    def __init__(self, predictions: dict[str, Any], task: Task) -> None:
        self.task = task
        self.predictions = predictions
        self.asked: list[Any] = []

    def __call__(self, examples: list[Any]) -> list[Any]:
        self.asked += examples
        return [self.predictions[str(example)] for example in examples]


def dataset(*examples: Any) -> Dataset:
    return Dataset("search", examples, None, np.arange(10, 10 + len(examples)), "made")


def classified(*classes: int) -> Score:
    probabilities = np.array([[0.25, 0.75] if k else [0.8, 0.2] for k in classes], np.float32)
    return Score(
        "accuracy", 1.0, len(classes), np.array(classes), kept={"probabilities": probabilities}
    )


def shown(
    split: Dataset, predictions: dict[str, Any], before: Score, after: Score, *, quoted: bool = True
) -> tuple[PredictionRecord, ...]:
    kind = "sentence-embedding" if "vectors" in before.kept else "text-classification"
    artifact = cast(Artifact, FakeArtifact(predictions, load_task(kind)))
    return sample_predictions(artifact, split, before, after, with_examples=quoted)


def says(label: str, score: float) -> dict[str, Any]:
    return {"label": label, "score": score}


def test_one_row_of_each_class_comes_before_a_second_of_any():
    split = dataset("a", "b", "c", "d")
    predictions = {"a": says("no", 0.9), "b": says("no", 0.6), "d": says("no", 0.55)}
    score = classified(0, 0, 0, 1)
    found = shown(split, predictions, score, score)
    assert [(item.text, item.before, item.after) for item in found] == [
        ("a", "no", "no"),
        ("d", "yes", "no"),
        ("b", "no", "no"),
    ]
    assert [(item.before_score, item.after_score) for item in found] == [
        (0.8, 0.9),
        (0.75, 0.55),
        (0.8, 0.6),
    ]


def test_rows_are_numbered_as_in_their_source():
    predictions = {"a": says("no", 0.9), "b": says("yes", 0.6)}
    score = classified(0, 1)
    assert [item.row for item in shown(dataset("a", "b"), predictions, score, score)] == [10, 11]


def test_the_right_label_is_told_where_there_is_one():
    predictions = {"a": says("no", 0.9), "b": says("yes", 0.6)}
    score = classified(0, 1)
    split = replace(dataset("a", "b"), labels=np.array([1, 1]))
    assert [item.label for item in shown(split, predictions, score, score)] == ["yes", "yes"]
    unlabelled = shown(dataset("a", "b"), predictions, score, score)
    assert [item.label for item in unlabelled] == [None, None]


def test_a_long_text_is_shown_where_there_is_no_shorter_one():
    predictions = {LONG: says("no", 0.9), "b": says("no", 0.6)}
    score = classified(0, 0)
    found = shown(dataset(LONG, "b"), predictions, score, score)
    assert [item.text for item in found] == ["b", LONG]


def test_no_text_is_quoted_where_the_recipe_forbids_it():
    score = classified(0)
    [found] = shown(dataset("a"), {"a": says("no", 0.9)}, score, score, quoted=False)
    assert (found.text, found.image, found.before) == (None, None, "no")


def test_an_image_is_shown_as_a_picture():
    image = np.zeros((4, 4), np.uint8)
    score = classified(1)
    [found] = shown(dataset(image), {str(image): says("yes", 0.9)}, score, score)
    assert found.text is None
    assert str(found.image).startswith("data:image/png;base64,")


# Unit vectors at angles of 0, 10, 90 and 120 degrees.
ANGLES = np.deg2rad([0, 10, 90, 120])
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)


def encoded(vectors: Any) -> Score:
    return Score(
        "cosine", 1.0, len(vectors), np.zeros(len(vectors), np.int64), kept={"vectors": vectors}
    )


def test_texts_with_the_nearest_neighbors_come_first_and_none_stands_in_two_pairs():
    predictions = dict(zip("abcd", VECTORS, strict=True))
    found = shown(dataset(*"abcd"), predictions, encoded(VECTORS), encoded(VECTORS))
    assert [(item.text, item.before, item.after) for item in found] == [
        ("a", "b", "b"),
        ("c", "d", "d"),
    ]
    assert [item.before_score for item in found] == [0.9848, 0.866]  # cosines of 10 and 30 degrees


def test_the_neighbor_is_the_artifacts_own():
    moved = VECTORS[[0, 2, 1, 3]]  # "c" is now where "b" was
    predictions = {"a": moved[0], "c": moved[2]}
    found = shown(dataset(*"abcd"), predictions, encoded(VECTORS), encoded(moved))
    assert (found[0].before, found[0].after) == ("b", "c")


def test_a_text_that_occurs_twice_is_not_its_own_neighbor():
    vectors = VECTORS[[0, 0, 1]]
    found = shown(dataset("a", "a", "b"), {"a": vectors[0]}, encoded(vectors), encoded(vectors))
    assert [(item.text, item.before) for item in found] == [("a", "b")]


def test_neighbors_are_named_by_their_rows_where_the_recipe_forbids_texts():
    predictions = dict(zip("abcd", VECTORS, strict=True))
    score = encoded(VECTORS)
    found = shown(dataset(*"abcd"), predictions, score, score, quoted=False)
    assert [(item.text, item.before, item.after) for item in found] == [
        (None, "row 11", "row 11"),
        (None, "row 13", "row 13"),
    ]
