"""The first load and the first batch of every checkpoint that a run reads, before anything long.

Whatever fails here is the fault of a checkpoint or of a pass that does not fit it, and is told
before anything is scored, exported or trained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from compressor import passes
from compressor.data import Dataset
from compressor.data.sampling import lengths_of
from compressor.errors import RecipeError, StepFailed
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.guard import foreign
from compressor.models.torch_model import TorchModel, load_foreign, token_limit, try_batch
from compressor.passes import Ahead, TorchPass
from compressor.pipeline.estimate import Pace
from compressor.recipe.recipe import Recipe
from compressor.tasks import Example, Task

_SHARES = (0.5, 0.85, 0.15, 0.65)  # of the rows by length, where the batches begin that are timed
_ROWS_TIMED = 8
_SECONDS_TIMED = 1.0
_ROWS = 4  # of the first batch, besides the longest and the shortest


def token_limits(found: Mapping[str, CheckpointFiles], task: Task) -> dict[str, int]:
    """Return how many tokens each checkpoint reads at most.

    Raises `EnvironmentMismatch` when a tokenizer cannot be used.
    """
    limits = {}
    for key, files in found.items():
        advice = "give a checkpoint with the tokenizer that it was trained with"
        with foreign(f"{files.name}: its tokenizer cannot be used", advice):
            limits[key] = token_limit(files, task)
    return limits


def look_ahead(
    recipe: Recipe, files: CheckpointFiles, task: Task, splits: Mapping[str, Dataset]
) -> Pace:
    """Load the untouched checkpoint, let it read a batch, and let every pass look at it.

    Returns how fast it reads on the CPU, which tells about how long the run will take.

    Raises `EnvironmentMismatch` when a checkpoint does not work, and `RecipeError` when a pass
    cannot do anything with it, or for rows that no model could be asked about.
    """
    model = untouched = load_foreign(files, task)
    for split in splits.values():
        task.require_readable(model.preprocessor, split.examples, split.place)
    try_batch(files, model, first_rows(splits["search"].examples))
    read = {name: splits[name] for name in ("train", "calibration") if name in splits}
    ahead = Ahead(untouched, read, recipe.seed)
    for position, step in enumerate(recipe.passes):
        if isinstance(step, TorchPass):
            try:
                model = passes.look_ahead(step, model, ahead)
            except StepFailed as error:
                place = f"passes.{position}.kind"
                raise RecipeError(recipe.describe(place, str(error))) from error
            unchanged = ahead.keeps_structure and not step.changes_structure
            ahead = replace(ahead, keeps_structure=unchanged)
    return _pace(files, untouched, splits["search"].examples)


def _pace(files: CheckpointFiles, model: TorchModel, examples: Sequence[Example]) -> Pace:
    """Return what a row takes, of several lengths as far as there is time."""
    order = np.argsort(lengths_of(examples), kind="stable")
    read = tokens = 0
    started = time.monotonic()
    for share in _SHARES:
        begin = min(round(share * len(order)), max(0, len(order) - _ROWS_TIMED))
        rows = [examples[index] for index in order[begin : begin + _ROWS_TIMED].tolist()]
        try_batch(files, model, rows)
        if model.task.reads_tokens:
            tokens += model.task.encode(model.preprocessor, rows)["attention_mask"].size
        read += len(rows)
        if time.monotonic() - started > _SECONDS_TIMED:
            break
    seconds = time.monotonic() - started
    return Pace(seconds / read, tokens / read if model.task.reads_tokens else None)


def first_rows(examples: Sequence[Example]) -> list[Example]:
    """Return the first examples, the shortest and the longest."""
    order = np.argsort(lengths_of(examples), kind="stable")
    ends = [int(order[0]), int(order[-1])]
    chosen = dict.fromkeys([*range(min(_ROWS, len(examples))), *ends])
    return [examples[index] for index in chosen]
