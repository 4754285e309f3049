"""Rows beside the training split that a student learns from a teacher alone, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compressor.data import Dataset
from compressor.data.further_rows import read_further_rows
from compressor.errors import RecipeError, StepFailed
from compressor.passes.distill.settings import Distill
from compressor.tasks import Example, Task
from compressor.tasks.outputs import UNLABELLED, LabelArray
from compressor.tasks.stored_rows import MadeByRow, are_stored
from compressor.words import counted


def with_unlabelled(settings: Distill, train: Dataset, task: Task) -> Dataset:
    """Return the training rows and those of `unlabelled`; the same split where none are given.

    Labels of the latter are not read. Where the loss on labels counts, they are marked as having
    none; else no row has any.

    Raises `StepFailed` for rows that cannot be read as those of the training split, and where
    labels count and are no classes of examples.
    """
    if settings.unlabelled is None:
        return train
    more = _examples(settings, task)
    if len(train) and _kind(train.examples[0]) != _kind(more[0]):
        raise StepFailed(
            f"unlabelled: {settings.unlabelled.name} holds {_kind(more[0])}, and the split "
            f"'{train.name}' {_kind(train.examples[0])}; name the same columns in "
            f"unlabelled.{task.input_column}"
        )
    labels = None
    if settings.label_weight > 0 and train.labels is not None:
        labels = _labels(train, len(more), task)
    return replace(
        train,
        examples=_joined(train.examples, more),
        labels=labels,
        rows=np.concatenate([train.rows, np.arange(len(more))]),
        source=f"{train.source} and {counted(len(more), 'row')} of {settings.unlabelled.name}",
        grades=None,
        groups=None,
        columns={},
        has_bare_ids=False,
    )


def _examples(settings: Distill, task: Task) -> Sequence[Example]:
    source = settings.unlabelled
    assert source is not None, "the caller asked"
    try:
        return read_further_rows(source, task).examples
    except RecipeError as error:
        raise StepFailed("; ".join(f"unlabelled: {item}" for item in error.mistakes)) from error


def _kind(example: Example) -> str:
    if isinstance(example, tuple):
        return "pairs of texts"
    return "single texts" if isinstance(example, str) else f"examples ({type(example).__name__})"


def _labels(train: Dataset, num_more: int, task: Task) -> LabelArray:
    classes = train.class_ids
    if classes is None or task.per_token:
        raise StepFailed(
            f"unlabelled: with label_weight above 0 rows without labels can stand beside classes "
            f"of examples alone, and {task.name} has other labels; set label_weight to 0"
        )
    return np.concatenate([classes, np.full(num_more, UNLABELLED, dtype=classes.dtype)])


def _joined(first: Sequence[Example], second: Sequence[Example]) -> Sequence[Example]:
    if not (are_stored(first) or are_stored(second)):
        return (*first, *second)
    count = len(first)

    def example(row: int) -> Any:
        return first[row] if row < count else second[row - count]

    return MadeByRow((), np.arange(count + len(second)), example)
