"""Checks that rows and budget can tell a good model from one that guesses.

A score that does not depend on the model is perfect for every model. So before anything is done to
the checkpoint, its own predictions are looked at: whether there is more than one, whether the
labels number the classes as it does, whether it does better than a guess, and whether the budget
would let a guess pass. The first two stop the run; the others are doubts that the report begins
with, and where a certificate is asked for, it is not given.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from compressor.certificate import certify_drop
from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import Score, Uninformed
from compressor.pipeline.cached_work import Stages
from compressor.pipeline.label_order import LabelOrder, better_order, better_order_of_sets
from compressor.pipeline.run_record import RunLog
from compressor.recipe.recipe import Recipe
from compressor.report import units
from compressor.tasks import Guess, Task, find_metric
from compressor.tasks.columns import are_reordered
from compressor.words import counted


def judge_baseline(
    log: RunLog,
    recipe: Recipe,
    task: Task,
    split: Dataset,
    baseline: Score,
    *,
    order_is_judged: bool = False,
) -> None:
    """Record what a model that knows nothing scores on `split`, and every doubt, in `log`.

    With `order_is_judged` that of the classes is not looked at again.

    Raises `RecipeError` where no score on these rows can depend on the model, or where the labels
    surely number the classes in another order than the checkpoint.
    """
    alike = task.constant(baseline, log.labels)
    if alike is not None:
        raise RecipeError(
            recipe.describe(
                f"data.{split.name}",
                f"the untouched checkpoint {alike} for all {counted(len(split), 'example')}, so "
                f"that no score on them depends on the model; look whether it is the right "
                f"checkpoint for these rows, and data.{task.input_column} the right column",
            )
        )
    if not order_is_judged:
        judge_order(log, recipe, task, split, baseline)
    guesses = task.guesses(baseline, split.truth(), log.labels)
    best = max(guesses, key=lambda guess: guess.score.value)
    log.chance = Uninformed(best.who, best.score.value)
    lowest = baseline.value - recipe.budget.max_drop
    metric = units.metric_words(baseline.metric)
    value, chance, accepted = (
        units.score(baseline.metric, number)
        for number in (baseline.value, best.score.value, lowest)
    )
    if not _is_better(baseline, best, split, recipe.budget.confidence):
        log.doubts.append(
            f"The untouched checkpoint is not clearly better than a guess on the {split.name} "
            f"split: its {metric} is {value}, that of {best.who} {chance}. Look whether checkpoint "
            f"and labels belong together; no score here proves anything"
        )
    elif lowest <= best.score.value:
        log.doubts.append(
            f"The budget lets a model pass that knows nothing: on the {split.name} split the "
            f"{metric} of {best.who} is {chance}, and the budget accepts {accepted}. Lower "
            f"budget.max_drop, or take another metric or rows that are harder to guess"
        )


def tuned_baseline(stages: Stages, log: RunLog) -> tuple[Stages, Score]:
    """Return the untouched checkpoint's score, and the stages with what the task chose by it.

    Where it chose something, the order of the classes was judged first, as by `judge_order`, which
    what is chosen for labels in a wrong order would hide.
    """
    split, untouched = stages.splits["search"], stages.untouched
    score = stages.score("baseline", untouched)
    task = stages.task.tuned(score, split.truth())
    if task is stages.task:
        return stages, score
    judge_order(log, stages.recipe, stages.task, split, score)
    stages = dataclasses.replace(stages, task=task)
    return stages, stages.score("baseline", untouched)


def judge_order(log: RunLog, recipe: Recipe, task: Task, split: Dataset, baseline: Score) -> None:
    """Record in `log` that another order of the classes fits the predictions on `split` far better.

    Raises `RecipeError` where that is certain and the labels are numbers that nothing explains.
    Where names say which class is meant, they are believed: the checkpoint may be that bad.
    """
    order = order_found(task, split, baseline, log.labels)
    if order is None:
        return
    numbers = numbers_of(log.labels)
    moved = ", ".join(
        f"{numbers[label] if split.has_bare_ids else repr(log.labels[label])} means "
        f"{log.labels[own]!r}"
        for label, own in enumerate(order.meaning)
        if label != own
    )
    found, given = (
        units.score("accuracy", share) for share in (order.best_accuracy, order.accuracy)
    )
    found_of = f"predicts {found} of the {split.name} split as labelled"
    if split.class_ids is None:
        found_of = f"reaches a micro F1 of {found} on the {split.name} split"
    told = (
        f"with the classes in another order the untouched checkpoint {found_of}, as they stand "
        f"{given} (if {moved})"
    )
    if (
        not (order.is_certain and split.has_bare_ids)
        or find_metric(baseline.metric).bound == "flips"
    ):
        log.doubts.append(f"{told[:1].upper()}{told[1:]}. Look at data.label_names")
        return
    raise RecipeError(
        recipe.describe(
            "data.label_names",
            f"the labels are numbers, and {told}; list the data's numbers in the checkpoint's "
            f"order, label_names: [{_listed(numbers, order)}], or [{_listed(numbers)}] if they are "
            f"right as they stand",
        )
    )


def order_found(
    task: Task, split: Dataset, baseline: Score, labels: Sequence[str]
) -> LabelOrder | None:
    """Return the order of the classes that fits the predictions on `split` far better, or None."""
    if split.class_ids is not None:
        return better_order(split.class_ids, baseline.outcomes, len(labels))
    if split.labels is None or not split.has_bare_ids:
        return None
    both = (
        task.findings(baseline, baseline, split.truth(), labels, labelled=labelled)
        for labelled in (True, False)
    )
    labelled, predicted = (np.array([found[name].there > 0 for name in labels]).T for found in both)
    return better_order_of_sets(labelled, predicted)


def numbers_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return what bare ids write for each class: its number, or its name where that is one."""
    return tuple(labels) if are_reordered(labels) else tuple(map(str, range(len(labels))))


def _listed(numbers: Sequence[str], order: LabelOrder | None = None) -> str:
    """Return the numbers of the classes as a recipe lists them, as they stand or in `order`."""
    places = range(len(numbers))
    found = places if order is None else [order.meaning.index(own) for own in places]
    return ", ".join(f'"{numbers[place]}"' for place in found)


def _is_better(baseline: Score, best: Guess, split: Dataset, confidence: float) -> bool:
    """Return whether the baseline is better than the best guess, and not by luck alone.

    The best of several random guesses is luck already; only accuracy needs a bound of its own.
    """
    metric = find_metric(baseline.metric)
    if metric.label_free:
        return True
    if metric.bound != "hits":
        return baseline.value > best.score.value
    proof = certify_drop(
        baseline, best.score, split.labels, max_drop=0.0, confidence=confidence, seed=0
    )
    return proof.lower_bound > 0
