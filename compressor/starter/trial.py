"""A first look at the untouched checkpoint: what it predicts for rows of search, and how fast.

The splits are read as a run reads them, so that what a run would refuse is told before a recipe is
written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.data.sampling import evenly_spread
from compressor.errors import RecipeError
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.families.layers import find_encoder
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.layerwise import run_layer
from compressor.pipeline.scorable import numbers_of, order_found
from compressor.pipeline.wanted_splits import read_splits
from compressor.progress import Progress
from compressor.recipe.recipe import Recipe
from compressor.starter.provable import Judged
from compressor.starter.questions import ask_for_an_export, ask_for_one_prediction
from compressor.tasks import Outputs, Task, identity_of
from compressor.tasks.ranking import group_numbers
from compressor.verify.evaluation import predict_outputs

_FIRST_ROWS = 32  # that show how fast the checkpoint is
_SECONDS = 20.0  # that the first look may take
_FEWEST_ROWS = 128  # that are looked at however long they take
_SHOWN_IMAGES = 256  # of splits that are only counted: decoding takes long
_TEXTS_OF_A_QUERY = 4  # that are looked at, itself and documents
_READ_AT_MOST = 2048  # calibration rows, by least squares


@dataclass(frozen=True)
class Trial:
    """What the first look found."""

    model: TorchModel
    files: CheckpointFiles
    searched: Dataset  # the rows that were looked at
    outputs: Outputs
    seconds_per_row: float  # of the float model, in batches of 32
    judged_rows: int  # of the whole search split, after cuts
    judged_units: int  # those that a score is of, such as the queries among them
    calibration: Dataset | None
    certification: Dataset | None

    def judged(self, metric: str) -> Judged:
        """Return the checkpoint's own score in `metric`."""
        truth = self.searched.truth()
        task = self.model.task
        return Judged(task, self.model.labels, task.score(metric, self.outputs, truth), truth)

    def unscorable(self, metric: str) -> str | None:
        """Return why `metric` cannot be taken on the rows."""
        return self.model.task.unscorable(metric, self.searched.truth())


def look_at(
    recipe: Recipe,
    model: TorchModel,
    files: CheckpointFiles,
    length: int | None,
    progress: Progress,
) -> Trial:
    """Read the splits of a draft, and let the checkpoint predict as many rows as time allows.

    `length` is how many tokens the artifact reads at most; None for images.

    Raises `EnvironmentMismatch` where predictions depend on how rows are put together, and where a
    checkpoint of an unknown model type cannot be exported.
    Raises `RecipeError` as a run does for rows that cannot be read or cut, and where every row gets
    the same prediction, and where the labels surely number the classes otherwise.
    """
    splits = _splits(recipe, model)
    search = splits["search"]
    metric = recipe.budget.metric
    assert metric is not None, "the draft names one"
    for split in splits.values():
        model.task.require_readable(model.preprocessor, split.examples, split.place)
    known = ask_for_one_prediction(model, files, search, length)
    rows = _as_many(model, search)
    # Other work makes a row last longer and hardly moves the CPU time; several threads take more of
    # that than a row lasts. So a recipe is for the machine, not for the moment.
    clocks = time.perf_counter, time.process_time
    started = [clock() for clock in clocks]
    outputs = predict_outputs(model, model.task, model.preprocessor, rows, progress=progress)
    seconds = min(clock() - before for clock, before in zip(clocks, started, strict=True))
    trial = Trial(
        model,
        files,
        rows,
        outputs,
        seconds / len(rows),
        len(search),
        search.num_judged or len(search),
        splits.get("calibration"),
        splits.get("certification"),
    )
    if outputs.first_not_finite() is not None:
        raise RecipeError(
            f"{search.source}: the checkpoint's outputs are not finite for some of its rows, so "
            f"nothing can be compared with them; give another checkpoint"
        )
    judged = trial.judged(metric)
    alike = model.task.constant(judged.score, model.labels)
    if alike is not None:
        raise RecipeError(
            f"{search.source}: the checkpoint {alike} for all of the {len(rows)} rows that would "
            f"judge it, so that no score on them depends on the model; give rows that differ, "
            f"another column (--text), or look whether it is the right checkpoint"
        )
    _require_order(trial, judged)
    ask_for_an_export(model, files, known, recipe, progress)
    return trial


def distinct_tokens(trial: Trial) -> int:
    """Return how many tokens least squares would read that are not in the copy of another row."""
    model, split = trial.model, trial.calibration
    if split is None:
        return 0
    examples = split.examples[:_READ_AT_MOST]
    if model.task.reads_tokens:
        counts = model.task.token_counts(model.preprocessor, examples)
        assert counts is not None, "it has a sequence"
        limit = int(model.preprocessor.model_max_length)
        read = np.minimum(counts, limit) if model.task.cuts_texts else counts
        different = dict(zip(examples, read.tolist(), strict=True))
        return int(sum(different.values()))
    encoded = model.task.encode(model.preprocessor, examples[:1])
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    trace = run_layer(find_encoder(model.module), 0, inputs, None, attention_only=True)
    pictures = {identity_of(example) for example in examples}
    return len(pictures) * int(trace.attention.output.shape[1])


def _splits(recipe: Recipe, model: TorchModel) -> dict[str, Dataset]:
    """Read the splits as a run does; images of those that are only counted are not all decoded."""
    data, task = recipe.data, model.task
    if not task.reads_tokens:
        limited = {
            name: source.model_copy(update={"max_rows": _SHOWN_IMAGES})
            for name, source in data.given.items()
            if name in ("train", "certification") and source.max_rows is None
        }
        data = data.model_copy(update=limited)
    metric = recipe.budget.metric
    assert metric is not None, "the draft names one"
    return read_splits(
        recipe.model_copy(update={"data": data}),
        task=task,
        label_names=model.labels,
        metric=metric,
    )


def _as_many(model: TorchModel, split: Dataset) -> Dataset:
    """Return evenly spread rows of a split, as many as there is time for."""
    first = _spread(split, _FIRST_ROWS)
    started = time.perf_counter()
    predict_outputs(model, model.task, model.preprocessor, first)
    seconds = (time.perf_counter() - started) / len(first)
    return _spread(split, max(_FEWEST_ROWS, int(_SECONDS / max(seconds, 1e-6))))


def _spread(split: Dataset, count: int) -> Dataset:
    """Return `count` rows evenly spread over a split; texts of a pair, rows of a query together."""
    if split.num_judged is not None:
        return _spread_queries(split, split.num_judged, count)
    if split.groups is not None:
        return _spread_groups(split, split.groups, count)
    together = 1 if split.grades is None else 2
    pairs = len(split) // together
    if count >= pairs * together:
        return split
    chosen = evenly_spread(pairs, max(1, count // together))
    rows = (chosen[:, None] * together + np.arange(together)).ravel()
    return replace(
        split,
        examples=tuple(split.examples[row] for row in rows.tolist()),
        labels=None if split.labels is None else split.labels[rows],
        grades=None if split.grades is None else split.grades[chosen],
        rows=split.rows[rows],
        columns={},
    )


def _spread_queries(split: Dataset, num_queries: int, count: int) -> Dataset:
    """Return queries with what is relevant to them, and other documents, about `count` in all."""
    if count >= len(split):
        return split
    assert split.labels is not None, "they say what is relevant"
    chosen = evenly_spread(num_queries, max(1, count // _TEXTS_OF_A_QUERY))
    needed = {name for row in chosen for name in split.labels[int(row)]["relevant"]}
    documents = np.arange(num_queries, len(split))
    is_needed = np.array([split.labels[row] in needed for row in documents.tolist()])
    others = documents[~is_needed]
    room = max(0, min(len(others), count - len(chosen) - int(is_needed.sum())))
    kept = others[evenly_spread(len(others), room)] if room else others[:0]
    rows = np.concatenate([chosen, np.sort(np.concatenate([documents[is_needed], kept]))])
    return replace(
        split,
        examples=tuple(split.examples[row] for row in rows.tolist()),
        labels=split.labels[rows],
        rows=split.rows[rows],
        num_judged=len(chosen),
        columns={},
    )


def _spread_groups(split: Dataset, groups: NDArray[np.int64], count: int) -> Dataset:
    if count >= len(split):
        return split
    size = int(groups.max()) + 1
    chosen = evenly_spread(size, max(1, round(size * count / len(split))))
    rows = np.flatnonzero(np.isin(groups, chosen))
    return replace(
        split,
        examples=tuple(split.examples[row] for row in rows.tolist()),
        labels=None if split.labels is None else split.labels[rows],
        groups=group_numbers(groups[rows]),
        rows=split.rows[rows],
        columns={},
    )


def _require_order(trial: Trial, judged: Judged) -> None:
    """Raise `RecipeError` where bare numbers surely number the classes in another order."""
    split, labels = trial.searched, trial.model.labels
    if not split.has_bare_ids:
        return
    order = order_found(trial.model.task, split, judged.score, labels)
    if order is None or not order.is_certain:
        return
    is_class = split.class_ids is not None
    reaches, on = ("is right on", "on ") if is_class else ("has a micro F1 of", "")
    of_rows = " of the rows" if is_class else ""
    numbers = numbers_of(labels)
    found = ",".join(numbers[order.meaning.index(own)] for own in range(len(labels)))
    own = ",".join(numbers)
    raise RecipeError(
        f"{split.source}: with its numbers as they stand the checkpoint {reaches} "
        f"{order.accuracy:.1%}{of_rows}, with the classes in another order {on}"
        f"{order.best_accuracy:.1%}; give --label-names {found}, which is the data's numbers in "
        f"the checkpoint's order ({_listing(labels)}), or --label-names {own} if they are right "
        f"as they stand"
    )


def _listing(labels: Sequence[str]) -> str:
    return ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")


def metrics_to_try(task: Task, *, has_labels: bool, has_grades: bool) -> tuple[str, ...]:
    """Return the metrics that rows allow, those that people expect first."""
    free = [metric.name for metric in task.metrics if metric.label_free]
    told = [metric for metric in task.metrics if not metric.label_free]
    graded = [metric.name for metric in told if metric.bound == "correlation"]
    labelled = [metric.name for metric in told if metric.bound != "correlation"]
    return (
        *(labelled[:2] if has_labels else ()),
        *(graded if has_labels or has_grades else ()),
        *free,
    )
