"""A model and a split give a score: the same way for PyTorch and for ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import LABEL_FREE, Score
from compressor.models.provider_options import AxisRange, ProviderSettings
from compressor.progress import SILENT, Progress
from compressor.tasks import Batch, Example, Task, Truth

BATCH_SIZE = 32
_NO_LIMIT = 1_000_000  # tokens; tokenizers that know no limit name a much larger one

Model = TypeVar("Model")  # what tells two models of a benchmark apart


class Predictor(Protocol):
    """What can be evaluated: a `TorchModel` or an `OnnxModel`."""

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Return the float32 outputs that the task names, the first axis is the batch."""


def evaluate(
    predictor: Predictor,
    task: Task,
    preprocessor: Any,
    dataset: Dataset,
    metric: str,
    *,
    reference: Score | None = None,
    progress: Progress = SILENT,
) -> Score:
    """Score `predictor` on every example of `dataset`.

    Metrics that need no labels compare with `reference`, the untouched checkpoint's score on the
    same examples, and take `predictor` for the untouched checkpoint itself when there is none.

    Raises `RecipeError` when the split lacks what the metric needs and `FloatingPointError` when an
    output is not finite, because a score of such outputs would look like any other number.
    """
    truth = truth_of(dataset, reference)
    mistake = task.unscorable(metric, truth)
    if mistake is not None:
        raise RecipeError(f"data.{dataset.name}: {mistake}")
    right = task.right_answers(metric, truth)
    outputs = predict_logits(
        predictor, task, preprocessor, dataset, answers=right, progress=progress
    )
    if not np.isfinite(outputs).all():
        row = int(np.argwhere(~np.isfinite(outputs))[0][0])
        what = "logits" if task.names_labels else "vectors"
        raise FloatingPointError(
            f"the model's {what} are not finite for row {row} of the {dataset.name} split"
        )
    return task.score(metric, outputs, truth)


def truth_of(dataset: Dataset, reference: Score | None = None) -> Truth:
    """Return what outputs on a split are compared with."""
    return Truth(dataset.examples, dataset.labels, dataset.grades, reference)


def digest_of(reference: Score) -> dict[str, str]:
    """Return the SHA-256 of what a score without labels compares with, for keys of steps.

    Empty for a metric that compares with labels, whose score depends on no other model.
    """
    if reference.metric not in LABEL_FREE:
        return {}
    digest = hashlib.sha256(reference.outcomes.tobytes())
    if reference.vectors is not None:
        digest.update(reference.vectors.tobytes())
    return {"reference": digest.hexdigest()}


def predict_logits(
    predictor: Predictor,
    task: Task,
    preprocessor: Any,
    dataset: Dataset,
    *,
    answers: NDArray[np.int64] | None = None,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Return the outputs, such as `(num_examples, num_labels)`, in the order of `dataset`.

    Examples are batched by length: it saves padding, and the order does not change a score. Where
    `answers`, shape `(num_examples,)`, are known, progress says how many of them were met so far.
    """
    met = seen = 0
    order = sorted(range(len(dataset)), key=lambda index: _length(dataset.examples[index]))
    found: list[NDArray[np.float32]] = []
    with progress.bar(f"evaluate on {dataset.name}", len(dataset)) as advance:
        for indices in _chunks(order):
            batch = task.encode(preprocessor, [dataset.examples[index] for index in indices])
            found.append(predictor.predict(batch))
            seen += len(indices)
            if answers is not None:
                met += int(np.sum(found[-1].argmax(axis=-1) == answers[indices]))
            advance(len(indices), "" if answers is None else f"{met / seen:.1%} right so far")
    logits = np.concatenate(found)
    restored = np.empty_like(logits)
    restored[order] = logits
    return restored


def mean_length(task: Task, preprocessor: Any, dataset: Dataset) -> int | None:
    """Return the mean number of tokens of an example, rounded; None for a task without a sequence.

    At least 1.
    """
    if not task.has_sequence:
        return None
    num_tokens = 0
    for indices in _chunks(list(range(len(dataset)))):
        batch = task.encode(preprocessor, [dataset.examples[index] for index in indices])
        num_tokens += int(batch["attention_mask"].sum())
    return max(1, round(num_tokens / len(dataset)))


def parity_batches(task: Task, preprocessor: Any, dataset: Dataset) -> list[Batch]:
    """Return real inputs of several lengths: the shortest, the longest, and mixed batches."""
    examples = dataset.examples
    order = sorted(range(len(examples)), key=lambda index: _length(examples[index]))
    spread = [order[round(step * (len(order) - 1) / 15)] for step in range(16)]
    chosen = ([order[0]], [order[-1]], spread[:8], spread[8:], spread[::5])
    return [task.encode(preprocessor, [examples[index] for index in indices]) for indices in chosen]


def engine_settings(task: Task, preprocessor: Any, cache_dir: Path) -> ProviderSettings:
    """Return what TensorRT needs to know to build one engine for a whole evaluation.

    Raises `RecipeError` when neither the task nor the tokenizer limits the length of a text.
    """
    axes = {"batch": AxisRange(1, BATCH_SIZE, BATCH_SIZE)}
    if task.has_sequence:
        longest = task.max_length or int(preprocessor.model_max_length)
        if longest > _NO_LIMIT:
            raise RecipeError(
                "data.max_length: TensorRT builds an engine for a range of lengths, and neither "
                "the recipe nor the tokenizer says where it ends; set the largest number of tokens"
            )
        axes["sequence"] = AxisRange(1, min(128, longest), longest)
    return ProviderSettings(axes=axes, cache_dir=cache_dir)


def benchmark_batches(
    task: Task,
    preprocessors: Mapping[Model, Any],
    dataset: Dataset,
    *,
    batch_sizes: Sequence[int],
    sequence_lengths: Sequence[int],
) -> list[tuple[int, int | None, dict[Model, Batch]]]:
    """Return the inputs of each model, by its own preprocessor, for each size and length.

    Lengths do not apply to images and are then None.
    """
    lengths = sequence_lengths if task.has_sequence else (None,)

    def inputs(size: int, length: int | None) -> dict[Model, Batch]:
        examples = dataset.examples
        return {
            name: task.benchmark_batch(preprocessor, examples, size, length)
            for name, preprocessor in preprocessors.items()
        }

    return [(size, length, inputs(size, length)) for size in batch_sizes for length in lengths]


def _chunks(order: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(order), BATCH_SIZE):
        yield order[start : start + BATCH_SIZE]


def _length(example: Example) -> int:
    """Return a number that grows with the tokens of an example: its characters; 0 for an image."""
    if isinstance(example, str):
        return len(example)
    if isinstance(example, tuple):
        return sum(len(text) for text in example)
    return 0  # images of a checkpoint all have one size after preprocessing
