"""Slices: groups of examples with a budget of their own, as compression hurts the rare first.

An average over all examples can hold while one class, the long texts or one source of data falls
apart. A slice is judged like the whole: by a bound on its drop in accuracy, with Holm's correction,
so that among all slices together a false verdict stays as rare as in a single certificate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.certificate import (
    certify_drop,
    certify_each,
    certify_paired,
    certify_slices,
    hits_of,
)
from compressor.data import Dataset
from compressor.errors import RecipeError
from compressor.measurements import Certificate, Score, SliceRecord
from compressor.recipe.budget import LABEL, LENGTH
from compressor.tasks import Example, Guess, find_metric, texts_of
from compressor.tasks.ranking import differ_within
from compressor.words import counted

MAX_VALUES = 50  # of a column; each slice more makes all of them harder to prove

Mask = NDArray[np.bool_]
Classes = NDArray[np.int64]
_SEVERITY = {"refuted": 0, "inconclusive": 1, "certified": 2}


def slice_masks(
    split: Dataset, names: Sequence[str], label_names: Sequence[str], metric: str
) -> dict[str, Mask]:
    """Return the examples of each slice, masks of shape `(num_examples,)`, by its name.

    Examples that scores are not of, as documents in retrieval, are in none.

    `label` gives a slice for each class, `length` three for short, medium and long texts with about
    as many examples each, a column one for each of its values. Queries are not parted: the length
    of one is the mean over its rows.

    Raises `RecipeError` for `label` without labels, `length` of images, a column with too many
    values or several within a query, and any slice where `metric` is a correlation.
    """
    if names and find_metric(metric).bound == "correlation":
        raise RecipeError(
            f"budget.slices: {metric} compares examples with one another, and a slice has too few; "
            f"remove the slices, or take a metric that is taken example by example"
        )
    masks: dict[str, Mask] = {}
    for name in names:
        if name == LABEL:
            masks |= _by_label(split, label_names)
        elif name == LENGTH:
            masks |= _by_length(split)
        else:
            masks |= _by_column(split, name)
    return masks


@dataclasses.dataclass(frozen=True)
class _Limits:
    """What is to be proven about each slice."""

    max_drop: float
    confidence: float
    seed: int


# What is proven about a slice of a model that knows nothing of its input, at some confidence.
_Guessed = Callable[[str, float], Certificate | None]


def judge_slices(
    split: Dataset,
    masks: Mapping[str, Mask],
    before: Score,
    after: Score,
    *,
    max_drop: float,
    confidence: float,
    seed: int,
    guesses: Sequence[Guess] = (),
) -> tuple[SliceRecord, ...]:
    """Return what is proven about each slice, the worst first.

    The drop is that of accuracy whatever a classifier's metric, because macro F1 of a single class
    says nothing. Without labels a changed prediction counts as a wrong one. Of a score of numbers
    it is that of the metric itself; `guesses` are then what models score that know nothing of their
    input.

    As for the whole split, a slice is only certified where its rows refute such a model. One whose
    queries all leave nothing to order is left out.
    """
    masks = {name: mask for name, mask in masks.items() if of_units(mask, before).any()}
    if not masks:
        return ()
    limits = _Limits(max_drop, confidence, seed)
    judge = _judge_numbers if find_metric(before.metric).is_fine else _judge_hits
    found, guessed = judge(split, masks, before, after, limits, guesses)
    for name, proof in found.items():
        known_nothing = None
        if proof.verdict == "certified":
            known_nothing = guessed(name, proof.confidence)
        if known_nothing is not None and known_nothing.verdict != "refuted":
            found[name] = dataclasses.replace(proof, verdict="inconclusive", needed_examples=None)
    records = [
        SliceRecord(
            name=name,
            num_examples=proof.num_examples,
            drop=proof.drop,
            upper_bound=proof.upper_bound,
            lower_bound=proof.lower_bound,
            verdict=proof.verdict,
            max_drop=max_drop,
            confidence=proof.confidence,
            losses=proof.losses,
            wins=proof.wins,
            needed_examples=proof.needed_examples,
        )
        for name, proof in found.items()
    ]
    return tuple(sorted(records, key=_rank))


def _judge_numbers(
    split: Dataset,  # noqa: ARG001 - a score of numbers is the metric's own
    masks: Mapping[str, Mask],
    before: Score,
    after: Score,
    limits: _Limits,
    guesses: Sequence[Guess],
) -> tuple[dict[str, Certificate], _Guessed]:
    """Return what is proven by the metric itself about each slice, and about guesses."""
    units = {name: of_units(mask, before) for name, mask in masks.items()}

    def drop(mask: Mask, level: float, other: Score = after) -> Certificate:
        return certify_drop(
            of_slice(before, mask),
            of_slice(other, mask),
            None,
            max_drop=limits.max_drop,
            confidence=level,
            seed=limits.seed,
        )

    def guessed(name: str, level: float) -> Certificate | None:
        known = [drop(units[name], level, guess.score) for guess in guesses]
        return min(known, key=lambda proof: proof.drop, default=None)

    return certify_each(units, drop, confidence=limits.confidence), guessed


def _judge_hits(
    split: Dataset,
    masks: Mapping[str, Mask],
    before: Score,
    after: Score,
    limits: _Limits,
    guesses: Sequence[Guess],
) -> tuple[dict[str, Certificate], _Guessed]:
    """Return what is proven about each slice, and about guesses, by which rows are right."""
    max_drop = limits.max_drop
    right = before.outcomes if split.class_ids is None else split.class_ids
    was, now = (hits_of(score, right) for score in (before, after))

    def guessed(name: str, level: float) -> Certificate | None:
        mask = masks[name]
        if before.shares is not None and guesses:
            best = max((hits_of(guess.score, right)[mask] for guess in guesses), key=np.mean)
            return certify_paired(was[mask], best, max_drop=max_drop, confidence=level)
        hits = _guess(right, before.outcomes, mask)
        return certify_paired(was[mask], hits, max_drop=max_drop, confidence=level)

    confidence = limits.confidence
    return certify_slices(masks, was, now, max_drop=max_drop, confidence=confidence), guessed


def of_units(mask: Mask, score: Score) -> Mask:
    """Return the units of a slice; one of several examples is in it where its first one is.

    Examples of no unit have a negative number.
    """
    if score.units is None:
        return mask
    units, first = np.unique(score.units, return_index=True)
    return mask[first[units >= 0]]


def of_slice(score: Score, units: Mask) -> Score:
    """Return a score of a few units, with what they contribute alone."""
    return dataclasses.replace(
        score,
        shares=None if score.shares is None else score.shares[units],
        sums=None if score.sums is None else score.sums[units],
    )


def _guess(right: Classes, before: Classes, mask: Mask) -> Mask:
    """Return which examples of a slice a model gets right that knows nothing of its input.

    It always gives the most frequent class of the slice. In a slice of one class that would be
    no guess, so there it gives the untouched checkpoint's predictions, but for other examples.
    """
    chosen = right[mask]
    outcomes, counts = np.unique(chosen, return_counts=True)
    most = outcomes[counts.argmax()]
    if not np.all(chosen == most):
        return np.asarray(chosen == most)
    return np.asarray(np.random.RandomState(0).permutation(before)[mask] == most)


def _rank(record: SliceRecord) -> tuple[int, float, float]:
    return _SEVERITY[record.verdict], -record.drop, -record.upper_bound


def _by_label(split: Dataset, label_names: Sequence[str]) -> dict[str, Mask]:
    if split.labels is None:
        raise RecipeError(
            f"budget.slices: label needs labels of classes, and data.{split.name} has none; remove "
            f"label from the slices or give the split a label column"
        )
    if (classes := split.class_ids) is None:
        raise RecipeError(
            f"budget.slices: label needs one class for each row, and labels of data.{split.name} "
            f"are none; remove label from the slices, and set budget.max_missed where each label "
            f"or kind of entity is to be judged by itself"
        )
    return {
        f"{LABEL} = {label_names[value]}": classes == value for value in np.unique(classes).tolist()
    }


def _by_length(split: Dataset) -> dict[str, Mask]:
    if not texts_of(split.examples[0]):
        raise RecipeError(
            "budget.slices: length is counted in words, and images have none; remove length from "
            "the slices"
        )
    words = np.array(
        [sum(len(text.split()) for text in texts_of(example)) for example in _judged(split)]
    )  # (num_judged,)
    if split.groups is not None:
        means = np.bincount(split.groups, words) / np.bincount(split.groups)
        words = np.rint(means).astype(np.int64)[split.groups]
    # The three thirds; where many texts have one length, two thirds can be the same.
    ends = sorted({int(end) for end in np.quantile(words, (1 / 3, 2 / 3, 1), method="lower")})
    starts = [int(words.min()), *(end + 1 for end in ends[:-1])]
    return {
        f"{LENGTH} = {_span(start, end)}": _whole(split, (words >= start) & (words <= end))
        for start, end in zip(starts, ends, strict=True)
    }


def _span(start: int, end: int) -> str:
    if start == end:
        return counted(start, "word")
    return f"{start} to {counted(end, 'word')}"


def _by_column(split: Dataset, name: str) -> dict[str, Mask]:
    judged = split.columns[name][: len(_judged(split))]
    values = np.array([_value(value) for value in judged], dtype=object)
    distinct = sorted(set(values.tolist()))
    if len(distinct) > MAX_VALUES:
        raise RecipeError(
            f"budget.slices: column '{name}' has {counted(len(distinct), 'value')} in "
            f"data.{split.name}, at most {MAX_VALUES} can be told apart; write a coarser column "
            f"into the file, such as ranges of a number"
        )
    if split.groups is not None and np.any(differ_within(values, split.groups)):
        raise RecipeError(
            f"budget.slices: column '{name}' has several values within a query in "
            f"data.{split.name}, and a query is judged as a whole; give a column that is the same "
            f"in all of its rows"
        )
    return {f"{name} = {value}": _whole(split, values == value) for value in distinct}


def _judged(split: Dataset) -> Sequence[Example]:
    """Return the examples that scores are of: queries, and not the documents that they look for."""
    return split.examples[: split.num_judged]


def _whole(split: Dataset, mask: Mask) -> Mask:
    """Return a mask of what is judged as one of all examples; the others are in no slice."""
    return np.append(mask, np.zeros(len(split) - len(mask), dtype=np.bool_))


def _value(value: Any) -> str:
    # An empty field of a csv file, a null, and the NaN that pandas writes for either.
    return "(none)" if value is None or value == "" or value != value else str(value)
