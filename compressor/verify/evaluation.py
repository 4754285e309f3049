"""A model and a split give a score: the same way for PyTorch and for ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.data.tokens import encoded
from compressor.errors import RecipeError
from compressor.machine.memory import give_back
from compressor.measurements import Flops, LengthRecord, Score
from compressor.models.flops import encoder_flops
from compressor.models.predict import Predictor, predict_rows
from compressor.models.preprocessor import Preprocessor
from compressor.models.probes import Probe, with_padding_moved
from compressor.models.provider_options import AxisRange, ProviderSettings
from compressor.progress import SILENT, Progress
from compressor.tasks import Batch, Example, Outputs, Task, find_metric, texts_of
from compressor.tasks.examples import length_of

BATCH_SIZE = 32
_PARTS = 1024  # batches whose outputs are then joined
_LONG = 128  # tokens, beyond which only two rows are read together
_SPECIAL = 4  # tokens at most that a tokenizer puts around a text or a pair
_MADE = -1  # the number of a row that is made of others

Model = TypeVar("Model")  # what tells two models of a benchmark apart


def evaluate(
    predictor: Predictor,
    task: Task,
    preprocessor: Preprocessor,
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
    truth = dataset.truth(reference)
    mistake = task.unscorable(metric, truth)
    if mistake is not None:
        raise RecipeError(f"data.{dataset.name}: {mistake}")

    def met(outputs: Outputs, positions: list[int]) -> int | None:
        found = task.hits(metric, outputs, truth, positions)
        return None if found is None else int(np.sum(found))

    outputs = predict_outputs(
        predictor, task, preprocessor, dataset, met=met, scored_by=metric, progress=progress
    )
    row = outputs.first_not_finite()
    if row is not None:
        raise FloatingPointError(
            f"the model's {task.output_words} are not finite for row {row} of the {dataset.name} "
            f"split"
        )
    score = task.score(metric, outputs, truth)
    if len(dataset) > _PARTS * BATCH_SIZE:
        del outputs
        give_back()
    return score


def digest_of(reference: Score) -> dict[str, str]:
    """Return the SHA-256 of what a score reads of the untouched checkpoint, for keys of steps.

    Empty for a metric that compares with labels alone, whose score depends on no other model.
    """
    metric = find_metric(reference.metric)
    if not metric.label_free and not metric.reads_reference:
        return {}
    digest = hashlib.sha256(reference.outcomes.tobytes())
    for _, values in sorted(reference.kept.items()):
        digest.update(values.tobytes())
    return {"reference": digest.hexdigest()}


def predict_outputs(
    predictor: Predictor,
    task: Task,
    preprocessor: Preprocessor,
    dataset: Dataset,
    *,
    met: Callable[[Outputs, list[int]], int | None] | None = None,
    scored_by: str | None = None,
    progress: Progress = SILENT,
) -> Outputs:
    """Return what `predictor` gives for each example, in the order of `dataset`.

    Examples are batched by their tokens: it saves padding, and the order does not change a score:
    by characters, a quarter of what is read of SST-2 is padding, by tokens less than a tenth. Where
    `met` says how many outputs of a batch are right, progress says how many were so far. With
    `scored_by` the result is what that metric reads of them (`Task.for_score`).
    """
    right = seen = 0
    read = encoded(task, preprocessor, dataset)
    order = np.argsort(read.lengths, kind="stable")
    parts: list[Outputs] = []
    joined: list[Outputs] = []
    with progress.bar(f"evaluate on {dataset.name}", len(dataset)) as advance:
        for indices in _chunks(order):
            if len(parts) == _PARTS:  # as many small arrays as batches would take memory
                joined.append(type(parts[0]).joined(parts))
                parts.clear()
            batch = read.batch(indices)
            own = task.predicted(lambda part: predict_rows(predictor, part, BATCH_SIZE), [batch])
            parts.append(own if scored_by is None else task.for_score(scored_by, own))
            seen += len(indices)
            found = None if met is None else met(own, indices)
            right += found or 0
            advance(len(indices), "" if found is None else f"{right / seen:.1%} right so far")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    del order
    joined += parts
    return type(joined[0]).joined(joined).select(place)


def mean_length(task: Task, preprocessor: Preprocessor, dataset: Dataset) -> int | None:
    """Return the mean number of tokens of a row, rounded; None for a task without a sequence.

    At least 1.
    """
    if not task.reads_tokens:
        return None
    num_tokens = num_rows = 0
    read = encoded(task, preprocessor, dataset)
    for indices in _chunks(np.arange(len(dataset))):
        batch = read.batch(indices)
        num_tokens += int(batch["attention_mask"].sum())
        num_rows += len(batch["attention_mask"])  # more than examples where long ones take several
    return max(1, round(num_tokens / num_rows))


def flops_of(graph: Path, task: Task, preprocessor: Preprocessor, dataset: Dataset) -> Flops:
    """Count what a graph computes for an example of the mean length of `dataset`."""
    length = mean_length(task, preprocessor, dataset)
    batch = task.benchmark_batch(preprocessor, dataset.examples, 1, length)
    return Flops(encoder_flops(graph, batch), length)


def parity_probes(
    task: Task, preprocessor: Preprocessor, dataset: Dataset, longest: int | None = None
) -> list[Probe]:
    """Return a few real rows to read alone and together, the longest first.

    Of texts these are the shortest, the middle and the longest by tokens, and one of `longest`
    tokens, the most that is read of any, made of several where none is so long. The longest is read
    again at the end: what a model remembers of short texts shows on it. The batch is padded on both
    sides in turn. Of images, which have one size, any rows do.
    """
    counts = encoded(task, preprocessor, dataset).counts
    order = np.arange(len(dataset)) if counts is None else np.argsort(counts, kind="stable")
    spread = [int(order[round(step * (len(order) - 1) / 15)]) for step in range(16)]
    middle, largest = int(order[len(order) // 2]), int(order[-1])
    examples = {index: dataset.examples[index] for index in (largest, middle, *spread)}
    chosen = list(dict.fromkeys((largest, middle, int(order[0]))))
    if counts is not None and longest is not None and counts[largest] < longest:
        long = _joined(task, dataset.examples[largest], int(counts[largest]), longest)
        if long is not None:
            examples[_MADE] = long
            chosen.insert(0, _MADE)

    # Sounds are read at the length that the task says, where it says one.
    reader = replace(task, max_length=longest) if task.reads_tokens else task

    def probe(rows: Sequence[int]) -> Probe:
        return Probe(reader.encode(preprocessor, [examples[row] for row in rows]), tuple(rows))

    # A batch as long takes memory and time, so the longest is read with the shortest alone, which
    # is nearly all padding then.
    is_long = longest is not None and longest > _LONG
    rows = [chosen[:1] + chosen[-1:], chosen[1:]] if is_long else [chosen]
    batches = [probe(found) for found in rows]
    # What reads sound knows padding at its end alone.
    moved = [with_padding_moved(batch.inputs) if task.reads_tokens else None for batch in batches]
    return [
        *(probe([row]) for row in chosen),
        *batches,
        *(
            Probe(inputs, batch.rows, other_side=True)
            for inputs, batch in zip(moved, batches, strict=True)
            if inputs is not None
        ),
        *(probe(found) for found in (spread[:8], spread[8:], spread[::5])),
        probe(chosen[:1]),
    ]


def engine_settings(longest: int | None, cache_dir: Path) -> ProviderSettings:
    """Return what TensorRT needs to know to build one engine for a whole evaluation.

    `longest` is the most tokens that are read of a text; None for images.
    """
    axes = {"batch": AxisRange(1, BATCH_SIZE, BATCH_SIZE)}
    if longest is not None:
        axes["sequence"] = AxisRange(1, min(128, longest), longest)
    return ProviderSettings(axes=axes, cache_dir=cache_dir)


def benchmark_batches(
    task: Task,
    preprocessors: Mapping[Model, Preprocessor],
    dataset: Dataset,
    *,
    batch_sizes: Sequence[int],
    sequence_lengths: Sequence[int],
) -> list[tuple[int, int | None, dict[Model, Batch]]]:
    """Return the inputs of each model, by its own preprocessor, for each size and length.

    Lengths do not apply to images and are then None.
    """
    lengths = task.timed_lengths(sequence_lengths)

    def inputs(size: int, length: int | None) -> dict[Model, Batch]:
        examples = dataset.examples
        return {
            name: task.benchmark_batch(preprocessor, examples, size, length)
            for name, preprocessor in preprocessors.items()
        }

    return [(size, length, inputs(size, length)) for size in batch_sizes for length in lengths]


def measured_lengths(
    task: Task,
    preprocessor: Preprocessor,
    datasets: Sequence[Dataset],
    *,
    checkpoint: int | None,
    artifact: int,
) -> LengthRecord:
    """Return up to which length texts were measured, beside what checkpoint and artifact read."""
    counts = np.concatenate([encoded(task, preprocessor, dataset).counts for dataset in datasets])
    measured = min(task.max_length or artifact, artifact)
    return LengthRecord(
        checkpoint=checkpoint,
        artifact=artifact,
        measured=measured,
        longest=min(int(counts.max()), measured),
        num_examples=len(counts),
        num_cut=int(np.sum(counts > measured)) if task.cuts_texts else 0,
    )


def measured_samples(
    task: Task, preprocessor: Preprocessor, datasets: Sequence[Dataset]
) -> LengthRecord | None:
    """Return up to which length sounds were measured; None for what is none, or has no limit."""
    limits = task.samples_read(preprocessor)
    if limits is None:
        return None
    own, measured = limits
    counts = np.array([length_of(item) for dataset in datasets for item in dataset.examples])
    return LengthRecord(
        checkpoint=own,
        artifact=measured,
        measured=measured,
        longest=min(int(counts.max()), measured),
        num_examples=len(counts),
        num_cut=int(np.sum(counts > measured)),
        unit="sample",
    )


def _joined(task: Task, example: Example, num_tokens: int, wanted: int) -> Example | None:
    """Return an example repeated until it has at least `wanted` tokens; None where it is empty."""
    times = -(-wanted // max(1, num_tokens - _SPECIAL)) + 1
    return (
        task.repeated(example, times) if any(text.strip() for text in texts_of(example)) else None
    )


def _chunks(order: NDArray[np.int64]) -> Iterator[list[int]]:
    for start in range(0, len(order), BATCH_SIZE):
        yield order[start : start + BATCH_SIZE].tolist()
