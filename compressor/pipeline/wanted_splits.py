"""Which rows a run reads: the splits that its passes, its gates and its slices need."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from compressor.data import CALIBRATION_ROWS, SPLIT_NAMES, Dataset, load_splits, repeated
from compressor.errors import RecipeError
from compressor.recipe.recipe import Recipe
from compressor.tasks import Task, find_metric

_JUDGED = {"search", "certification"}


def needed_splits(recipe: Recipe) -> list[str]:
    """Return the splits that a run reads, given or cut from others."""
    needed = {"search"}.union(*(step.required_splits() for step in recipe.possible_passes()))
    if recipe.data.certification is not None:
        needed.add("certification")
    return [name for name in SPLIT_NAMES if name in needed]


def calibration_rows(recipe: Recipe) -> int:
    """Return how many rows a calibration split has at most that is cut from another."""
    return max([CALIBRATION_ROWS, *(step.calibration_rows_wanted() for step in recipe.passes)])


def read_splits(
    recipe: Recipe,
    *,
    task: Task,
    label_names: Sequence[str],
    metric: str,
    only: Container[str] | None = None,
) -> dict[str, Dataset]:
    """Return the splits of a run by name, with the columns that its slices are made of.

    With `only` just those splits, which have to be given.

    Raises `RecipeError`, each mistake beginning with a key of the recipe, and
    `EnvironmentMismatch` as `load_splits` does.
    """
    needed = [name for name in needed_splits(recipe) if only is None or name in only]
    splits = load_splits(
        recipe.data,
        label_names=label_names,
        columns=task.columns(metric),
        needed=needed,
        seed=recipe.seed,
        labelled=not find_metric(metric).label_free or recipe.budget.max_recall_drop is not None,
        keep=recipe.kept_columns(),
        calibration_rows=calibration_rows(recipe),
        spare_rows=max([0, *(step.spare_rows_wanted() for step in recipe.passes)]),
        preprocess=recipe.preprocess,
    )
    # Now and not at the end: what cannot be scored or formed should not cost a training.
    told = task.for_labels(label_names)
    found = {name: _unscorable(splits[name], told, metric) for name in _JUDGED & set(splits)}
    untunable = told.untunable(splits["search"].truth()) if "search" in splits else None
    mistakes = [] if untunable is None else [f"model.thresholds: {untunable}"]
    mistakes += [f"data.{name}: {why}" for name, why in sorted(found.items()) if why is not None]
    mistakes += _copies(splits)
    mistakes += _unfit_labels(recipe, task, splits.get("train"))
    mistakes += _unlabelled_calibration(recipe, splits.get("calibration"))
    num_rows = {name: len(split.examples) for name, split in splits.items()}
    for position, step in enumerate(recipe.passes):
        mistakes += [f"passes.{position}.{key}: {why}" for key, why in step.unfit_rows(num_rows)]
    if mistakes:
        raise RecipeError(mistakes)
    if recipe.budget.min_attribution_agreement is not None:
        # Here and not at the top, for the same reason as below.
        from compressor.pipeline.attributions import check_explained

        check_explained(recipe.budget, task)
    if recipe.budget.misses:
        # Here and not at the top, for the same reason as below.
        from compressor.pipeline.judge import check_kinds

        check_kinds(recipe.budget, task, label_names)
    if recipe.budget.slices and recipe.judged_split in splits:
        # Here and not at the top: it loads SciPy, and `compress validate` must answer at once.
        from compressor.pipeline.slices import slice_masks

        slice_masks(splits[recipe.judged_split], recipe.budget.slices, label_names, metric)
    return splits


def _unscorable(split: Dataset, task: Task, metric: str) -> str | None:
    return task.unscorable(metric, split.truth())


def _copies(splits: Mapping[str, Dataset]) -> Iterator[str]:
    """Yield a mistake where rows that shall prove something are copies of others."""
    if (split := splits.get("certification")) is None:
        return
    others = {name: splits[name] for name in ("search", "train") if name in splits}
    if (why := repeated(split, others)) is not None:
        yield f"data.certification: {why}"


def _unfit_labels(recipe: Recipe, task: Task, train: Dataset | None) -> Iterator[str]:
    """Yield a mistake for every pass that trains on labels which `train` has not, or cannot."""
    if train is None:
        return
    why = None if train.labels is None else task.untrainable(train.labels)
    found = f"the train split ({train.source}) holds labels that do not fit: {why}"
    if train.labels is None:
        source = recipe.data.given.get(train.cut_from or "train")
        column = recipe.data.label_column(source)
        found = (
            f"the train split ({train.source}) has no column '{column}'; name the column in "
            f"data.label, or distill with label_weight: 0, which needs none"
        )
    elif why is None:
        return
    for position, step in enumerate(recipe.passes):
        if step.label_setting is not None:
            yield f"passes.{position}.{step.label_setting}: trains on labels, and {found}"


def _unlabelled_calibration(recipe: Recipe, calibration: Dataset | None) -> Iterator[str]:
    """Yield a mistake for every pass that reads labels of `calibration` where it has none."""
    if calibration is None or calibration.labels is not None:
        return
    for position, step in enumerate(recipe.passes):
        if (setting := step.calibration_label_setting) is not None:
            yield (
                f"passes.{position}.{setting}: {getattr(step, setting)} reads labels, and the "
                f"calibration split ({calibration.source}) has none; name the column in "
                f"data.label, or use importance entropy"
            )
