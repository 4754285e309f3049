"""Which rows a run reads: the splits that its passes, its gates and its slices need."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.data import Dataset, LabelKind, load_splits, most_rows
from compressor.errors import RecipeError
from compressor.evaluation import truth_of
from compressor.measurements import LABEL_FREE, OF_NUMBERS
from compressor.pipeline.slices import slice_masks
from compressor.recipe import Recipe
from compressor.recipe_rules import expected_metric
from compressor.tasks import Task

_JUDGED = {"search", "certification"}


def check_resolution(recipe: Recipe) -> None:
    """Raise `RecipeError` when the budget is finer than one example of search, if that can be told.

    No row is read, so a split that is cut from another one, or lies on the Hub, is passed over; and
    so is a metric whose score moves by less than an example.
    """
    if expected_metric(recipe.to_dict()) in OF_NUMBERS:
        return
    source = recipe.data.search
    rows = None if source is None else most_rows(source)
    mistake = recipe.budget.resolution_mistake(rows) if rows else None
    if mistake is not None:
        raise RecipeError(recipe.describe("budget.max_drop", mistake))


def read_splits(
    recipe: Recipe, *, task: Task, label_names: Sequence[str], metric: str
) -> dict[str, Dataset]:
    """Return the splits of a run by name, with the columns that its slices are made of.

    Raises `RecipeError`, each mistake beginning with a key of the recipe, and
    `EnvironmentMismatch` as `load_splits` does.
    """
    needed = {"search"}.union(*(step.required_splits() for step in recipe.possible_passes()))
    if recipe.data.certification is not None:
        needed.add("certification")
    kind: LabelKind = "class" if task.names_labels else "grade"
    if kind == "grade" and metric in LABEL_FREE:
        kind = "none"  # a column of that name need not be one of grades
    splits = load_splits(
        recipe.data,
        label_names=label_names,
        input_column=task.input_column,
        needed=needed,
        seed=recipe.seed,
        labelled=metric not in LABEL_FREE,
        keep=recipe.kept_columns(),
        kind=kind,
        splits_pairs=task.splits_pairs,
    )
    # Now and not at the end: what cannot be scored or formed should not cost a training.
    found = {
        name: task.unscorable(metric, truth_of(splits[name])) for name in _JUDGED & set(splits)
    }
    mistakes = [f"data.{name}: {why}" for name, why in sorted(found.items()) if why is not None]
    if mistakes:
        raise RecipeError(mistakes)
    slice_masks(splits[recipe.judged_split], recipe.budget.slices, label_names)
    return splits
