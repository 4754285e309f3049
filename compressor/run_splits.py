"""Which rows a run reads: the splits that its passes, its gates and its slices need."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.data import Dataset, load_splits, most_rows
from compressor.errors import RecipeError
from compressor.measurements import AGREEMENT
from compressor.recipe import Recipe
from compressor.slices import slice_masks


def check_resolution(recipe: Recipe) -> None:
    """Raise `RecipeError` when the budget is finer than one example of search, if that can be told.

    No row is read, so a split that is cut from another one, or lies on the Hub, is passed over.
    """
    source = recipe.data.search
    rows = None if source is None else most_rows(source)
    mistake = recipe.budget.resolution_mistake(rows) if rows else None
    if mistake is not None:
        raise RecipeError(recipe.describe("budget.max_drop", mistake))


def read_splits(
    recipe: Recipe, *, label_names: Sequence[str], input_column: str, metric: str
) -> dict[str, Dataset]:
    """Return the splits of a run by name, with the columns that its slices are made of.

    Raises `RecipeError`, each mistake beginning with a key of the recipe, and
    `EnvironmentMismatch` as `load_splits` does.
    """
    needed = {"search"}.union(*(step.required_splits() for step in recipe.possible_passes()))
    if recipe.data.certification is not None:
        needed.add("certification")
    splits = load_splits(
        recipe.data,
        label_names=label_names,
        input_column=input_column,
        needed=needed,
        seed=recipe.seed,
        labelled=metric != AGREEMENT,
        keep=recipe.kept_columns(),
    )
    # Now and not at the end: a slice that cannot be formed should not cost a training.
    slice_masks(splits[recipe.judged_split], recipe.budget.slices, label_names)
    return splits
