"""The first load and the first batch of every checkpoint that a run reads, before anything long.

Whatever fails here is the fault of a checkpoint or of a pass that does not fit it, and is told
before anything is scored, exported or trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressor.data import Dataset
from compressor.errors import RecipeError, StepFailed
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.guard import foreign
from compressor.models.torch_model import load_foreign, token_limit, try_batch
from compressor.passes import Ahead, TorchPass
from compressor.recipe import Recipe
from compressor.tasks import Example, Task

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
) -> None:
    """Load the untouched checkpoint, let it read a batch, and let every pass look at it.

    Raises `EnvironmentMismatch` when a checkpoint does not work, and `RecipeError` when a pass
    cannot do anything with it.
    """
    model = untouched = load_foreign(files, task)
    try_batch(files, model, first_rows(splits["search"].examples))
    ahead = Ahead(untouched, splits.get("train"), recipe.seed)
    for position, step in enumerate(recipe.passes):
        if isinstance(step, TorchPass):
            try:
                model = step.look_ahead(model, ahead)
            except StepFailed as error:
                place = f"passes.{position}.kind"
                raise RecipeError(recipe.describe(place, str(error))) from error


def first_rows(examples: Sequence[Example]) -> list[Example]:
    """Return the first examples, the shortest and the longest."""
    lengths = [len(str(item)) if isinstance(item, str | tuple) else 0 for item in examples]
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    chosen = dict.fromkeys([*range(min(_ROWS, len(examples))), order[0], order[-1]])
    return [examples[index] for index in chosen]
