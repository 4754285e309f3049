"""The tasks: what a model is for, by the word in the recipe."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from compressor.errors import RecipeError
from compressor.own_code import is_reference
from compressor.runtime.texts import NO_LIMIT
from compressor.tasks.base import (
    Ability,
    Batch,
    Comparison,
    Findings,
    Guess,
    OutputForm,
    Predict,
    Task,
    Tokens,
    Truth,
)
from compressor.tasks.examples import (
    Example,
    HasTexts,
    identity_of,
    image_of,
    is_long,
    length_of,
    texts_of,
)
from compressor.tasks.image_texts import ImageTexts
from compressor.tasks.metrics import Bound, Metric, UsualDrop
from compressor.tasks.outputs import UNLABELLED, ClassLogits, Outputs, Rows, Vectors
from compressor.tasks.own_metric import MetricInputs, own_metric, with_own_metric
from compressor.tasks.pixels import pixels_of
from compressor.tasks.report_words import ReportWords
from compressor.tasks.thresholds import Thresholds, ThresholdWish

__all__ = [
    "NO_LIMIT",
    "UNLABELLED",
    "Ability",
    "Batch",
    "Bound",
    "ClassLogits",
    "Comparison",
    "Example",
    "Findings",
    "Guess",
    "HasTexts",
    "ImageTexts",
    "Metric",
    "MetricInputs",
    "OutputForm",
    "Outputs",
    "Predict",
    "ReportWords",
    "Rows",
    "Task",
    "Tokens",
    "Truth",
    "UsualDrop",
    "Vectors",
    "find_metric",
    "has_metric",
    "identity_of",
    "image_of",
    "is_long",
    "length_of",
    "load_task",
    "output_names",
    "pixels_of",
    "task_class",
    "task_names",
    "texts_of",
    "with_own_metric",
]


# Each word that `model.task` accepts, with the class behind it, imported when it is asked for.
TASKS: dict[str, str] = {
    "audio-classification": "compressor.tasks.audio_classification:AudioClassification",
    "audio-features": "compressor.tasks.audio_features:AudioFeatures",
    "image-classification": "compressor.tasks.image_classification:ImageClassification",
    "image-features": "compressor.tasks.image_features:ImageFeatures",
    "masked-language-modeling": "compressor.tasks.masked_language_modeling:MaskedLanguageModeling",
    "multi-label-classification": "compressor.tasks.multi_label:MultiLabelClassification",
    "question-answering": "compressor.tasks.question_answering:QuestionAnswering",
    "sentence-embedding": "compressor.tasks.sentence_embedding:SentenceEmbedding",
    "text-classification": "compressor.tasks.text_classification:TextClassification",
    "token-classification": "compressor.tasks.token_classification:TokenClassification",
    "text-scoring": "compressor.tasks.text_scoring:TextScoring",
}


_LACKS = {  # of tasks without such an option
    "pooling": "gives no vectors",
    "normalize": "gives no vectors",
    "thresholds": "predicts no sets of labels",
    "zero_shot": "gives no vectors of images",
}


def task_names() -> tuple[str, ...]:
    """Return the words that `model.task` accepts."""
    return tuple(TASKS)


def task_class(name: str) -> type[Task]:
    """Return the task called `name`; raises `KeyError` for a word that is not in `task_names()`."""
    module, _, found = TASKS[name].partition(":")
    kind: type[Task] = getattr(importlib.import_module(module), found)
    return kind


def find_metric(name: str) -> Metric:
    """Return the metric called `name`, of any task or of a user's own.

    Raises `KeyError` where no task has it.
    """
    if is_reference(name):
        return own_metric(name)
    for task in TASKS:
        for metric in task_class(task).metrics:
            if metric.name == name:
                return metric
    raise KeyError(name)


def has_metric(name: str) -> bool:
    """Return whether a metric called `name` is one of a task, or a user's own."""
    return is_reference(name) or any(name in task_class(task).metric_names() for task in TASKS)


def output_names() -> tuple[str, ...]:
    """Return what the tasks call the one array that their models give."""
    return tuple(dict.fromkeys(task_class(name).output for name in TASKS))


def load_task(
    name: str,
    *,
    max_length: int | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    thresholds: ThresholdWish | Thresholds | None = None,
    zero_shot: ImageTexts | None = None,
) -> Task:
    """Return the task called `name` with its options; raises `KeyError` like `task_class`.

    Raises `RecipeError` for `pooling` or `normalize` of a task that gives no vectors, for
    `thresholds` of one that predicts no sets of labels, and for `zero_shot` of one that gives no
    vectors of images.
    """
    kind: type[Any] = task_class(name)
    wanted = {
        "pooling": pooling,
        "normalize": normalize,
        "thresholds": thresholds,
        "zero_shot": zero_shot,
    }
    given = {option: value for option, value in wanted.items() if value is not None}
    unknown = given.keys() - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise RecipeError(
            [f"model.{option}: {name} {_LACKS[option]}; remove it" for option in sorted(unknown)]
        )
    task: Task = kind(max_length=max_length, **given)
    return task
