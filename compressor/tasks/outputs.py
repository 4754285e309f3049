"""Typed values of what a model gives for several examples.

A task collects the arrays of a model's batches into one of these and owns all that is done with it:
scores, comparisons, predictions. Everything else in the package only counts them, chooses among
them and asks whether they are finite. A task whose model gives something else brings a class of its
own.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compressor.tasks.stored_rows import ReadByRow

UNLABELLED = -100  # a target that no output is compared with; PyTorch's ignore_index
# What a split says of each example, shape (num_examples,): class ids, numbers, or any object that
# the task's columns make of a cell (dtype object, or read by row where it is several values).
LabelArray = NDArray[Any] | ReadByRow[Any]
Positions = Sequence[int] | NDArray[np.int64]
# One array for each example: of one width in one array, else in a list.
Rows = NDArray[np.float32] | Sequence[NDArray[np.float32]]


def one_each(labels: LabelArray) -> NDArray[Any]:
    """Return labels of a task whose columns give one value, or one object, for each example."""
    assert isinstance(labels, np.ndarray), "columns of such a task give an array"
    return labels


def told_apart(predictions: Iterable[bytes]) -> NDArray[np.int64]:
    """Return a number for each prediction that is the same only where its bytes are.

    They are the outcomes of predictions that are no class, such as a set of labels or a text.
    """
    digests = (hashlib.sha256(prediction).digest() for prediction in predictions)
    return np.array([int.from_bytes(digest[:7], "big") for digest in digests], dtype=np.int64)


class Outputs(ABC):
    """What a model gives for several examples, in their order."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @classmethod
    @abstractmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the outputs of all parts, one after the other; raises `ValueError` for none."""

    @abstractmethod
    def select(self, positions: Positions) -> Self:
        """Return the outputs of the examples at `positions`, in that order."""

    @property
    @abstractmethod
    def numbers(self) -> NDArray[np.float32]:
        """Return all that the model gave, whose last axis is what it gives at one place."""

    @abstractmethod
    def per_example(self) -> Rows:
        """Return what the model gave for each example."""

    def first_not_finite(self) -> int | None:
        """Return the first example for which a number is NaN or infinite, None where none is."""
        if np.isfinite(self.numbers).all():
            return None
        rows = self.per_example()
        return next(place for place, row in enumerate(rows) if not np.isfinite(row).all())


@dataclass(frozen=True)
class RowOutputs(Outputs):
    """One row of numbers for each example: `values` has shape `(num_examples, width)`."""

    values: NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.values)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, one after the other."""
        return cls(np.concatenate([part.values for part in parts]))

    def select(self, positions: Positions) -> Self:
        """Return the rows at `positions`, in that order."""
        return type(self)(self.values[np.asarray(positions, dtype=np.int64)])

    @property
    def numbers(self) -> NDArray[np.float32]:
        """Return the rows themselves."""
        return self.values

    def per_example(self) -> NDArray[np.float32]:
        """Return the rows themselves."""
        return self.values


class ClassLogits(RowOutputs):
    """One logit for each label, of which one is right: shape `(num_examples, num_labels)`."""


class Vectors(RowOutputs):
    """One vector for each input: `(num_examples, width)`, float32, int8 or signs in bytes."""
