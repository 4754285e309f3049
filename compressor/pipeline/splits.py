"""Which rows a run reads: the splits that its passes, its gates and its slices need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compressor.data import CALIBRATION_ROWS, Dataset, LabelKind, load_splits
from compressor.errors import RecipeError
from compressor.evaluation import truth_of
from compressor.measurements import LABEL_FREE
from compressor.pipeline.slices import slice_masks
from compressor.recipe import Recipe
from compressor.tasks import Task

_JUDGED = {"search", "certification"}


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
    wanted = [step.calibration_rows_wanted() for step in recipe.passes]
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
        calibration_rows=max([CALIBRATION_ROWS, *wanted]),
    )
    # Now and not at the end: what cannot be scored or formed should not cost a training.
    found = {
        name: task.unscorable(metric, truth_of(splits[name])) for name in _JUDGED & set(splits)
    }
    mistakes = [f"data.{name}: {why}" for name, why in sorted(found.items()) if why is not None]
    mistakes += _missing_labels(recipe, splits.get("train"))
    if mistakes:
        raise RecipeError(mistakes)
    slice_masks(splits[recipe.judged_split], recipe.budget.slices, label_names)
    return splits


def _missing_labels(recipe: Recipe, train: Dataset | None) -> Iterator[str]:
    """Yield a mistake for every pass that trains on labels which `train` has not."""
    if train is None or train.labels is not None:
        return
    source = recipe.data.given.get(train.cut_from or "train")
    column = recipe.data.label if source is None else recipe.data.label_column(source)
    for position, step in enumerate(recipe.passes):
        if step.label_setting is not None:
            yield (
                f"passes.{position}.{step.label_setting}: trains on labels, and the train split "
                f"({train.source}) has no column '{column}'; name the column in "
                f"data.label, or distill with label_weight: 0, which needs none"
            )
