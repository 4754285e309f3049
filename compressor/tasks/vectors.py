"""What every task shares whose models give one vector for each input, such as a text or an image.

No vector is the right one. How good a compressed encoder is, is how near its vectors are to the
untouched checkpoint's, and which other input is the nearest to each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import StepFailed
from compressor.measurements import Score
from compressor.tasks.base import Batch, Comparison, Guess, OutputForm, Predict, Task, Truth
from compressor.tasks.examples import Example, is_long
from compressor.tasks.metrics import Metric, UsualDrop
from compressor.tasks.outputs import Outputs, Positions, Vectors
from compressor.tasks.similarity import (
    all_alike,
    as_floats,
    candidates,
    cosines,
    nearest,
    rank_correlation,
)
from compressor.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from compressor.tasks.losses import VectorLosses

VECTORS = "vectors"  # of the inputs, shape (num_examples, width), that a score keeps
# How the code of a model card ends that shows vectors; what goes before it makes `vectors`.
SIMILARITIES_CODE = """\
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(vectors @ vectors.T)  # cosine similarities
"""
# The same where they are stored in bytes, `codes`.
BYTES_CODE = f"""\
# int8: one number a byte, all with one scale; uint8: eight signs a byte.
vectors = np.unpackbits(codes, axis=1) * 2 - 1.0 if codes.dtype == np.uint8 else codes * 1.0
{SIMILARITIES_CODE}"""
_CANDIDATES = 2_000  # inputs, at most, among which neighbours are looked for


def cosine_metrics(name: str, unit: str) -> tuple[Metric, Metric]:
    """Return two metrics of how near vectors are to the untouched checkpoint's.

    The mean cosine similarity over inputs, which is called `name`, and its 5th percentile. An input
    is one `unit`.
    """
    mean = Metric(
        name,
        "cosine similarity",
        f"the mean cosine similarity of each {unit}'s vector and the vector that the untouched "
        f"checkpoint gives it, from -1 to 1",
        "mean",
        label_free=True,
        same_width=True,
        percent=False,
        unit=unit,
        units=f"{unit}s",
        usual_drop=UsualDrop(0.001, 0.006, 0.02),
        most_pruned_drop=0.05,
    )
    low = replace(
        mean,
        name=f"{name}_p5",
        words="5th percentile of cosine similarity",
        explained=f"the cosine similarity that all but one in twenty {unit}s reach, of each "
        f"{unit}'s vector and the vector that the untouched checkpoint gives it, from -1 to 1",
        bound="quantile",
        quantile=0.05,
        usual_drop=UsualDrop(0.002, 0.012, 0.045),
        most_pruned_drop=0.1,
    )
    return mean, low


class VectorTask(Task):
    """One vector for each input; the outcome of an input is its nearest other one."""

    output_words: ClassVar[str] = "vectors"
    has_head: ClassVar[bool] = False
    explains: ClassVar[str] = "cosine similarity with the vector of the whole input"
    explains_by_gradients: ClassVar[bool] = True

    @abstractmethod
    def vector_width(self, config: Any) -> int:
        """Return how many numbers a vector has, by the configuration of a module."""

    @abstractmethod
    def identities(self, truth: Truth) -> Sequence[Hashable]:
        """Return what tells the inputs of a split apart: those that are equal are one input."""

    def misfit(
        self,
        shape: tuple[int, ...],
        num_rows: int,
        num_labels: int,  # noqa: ARG002 - it has none
    ) -> str | None:
        """Return what is needed unless there is a vector for each row."""
        fits = len(shape) == 2 and shape[0] == num_rows
        return None if fits else "one row of numbers for each"

    def collect(
        self,
        arrays: Sequence[NDArray[np.float32]],
        batches: Sequence[Batch],  # noqa: ARG002 - one row is one input
    ) -> Vectors:
        """Return the vectors as the graph gives them, shape `(num_examples, width)`."""
        return Vectors(np.concatenate(arrays))

    def explained(self, original: Outputs, outputs: Outputs) -> NDArray[np.float64]:  # noqa: ARG002
        """Return the cosine similarity of each vector with the first, that of the whole input."""
        vectors = vectors_of(outputs)
        return cosines(np.broadcast_to(vectors[:1], vectors.shape), vectors)

    def explained_tensor(
        self,
        original: Outputs,  # noqa: ARG002 - each model is compared with its own vector
        whole: Outputs,
        array: Tensor,
    ) -> Tensor:
        """Return the same in PyTorch."""
        from torch.nn.functional import cosine_similarity

        return cosine_similarity(array, array.new_tensor(vectors_of(whole)), dim=-1)

    def teacher_order(self, student: OutputForm, teacher: OutputForm) -> list[int]:
        """Leave the numbers in their places; raises `StepFailed` for another width."""
        own, other = (self.vector_width(each.config) for each in (student, teacher))
        if own != other:
            raise StepFailed(
                f"the student's vectors have {own} numbers, the teacher's {other}; they must be "
                f"the same, so take a student and a teacher of one width"
            )
        return list(range(own))

    def changed(self, before: Outputs, after: Outputs) -> None:
        """Return None: no number of a vector is a prediction."""

    def hits(self, metric: str, outputs: Outputs, truth: Truth, positions: Positions) -> None:
        """Return None: no vector is the right one."""

    @property
    def losses(self) -> VectorLosses:
        """Return losses on where vectors point."""
        from compressor.tasks.losses import VectorLosses  # torch, which an artifact has not

        return VectorLosses()

    def constant(
        self,
        score: Score,
        labels: Sequence[str],  # noqa: ARG002 - it has none
    ) -> str | None:
        """Say that every input got the same vector, where it did."""
        return "gives the same vector" if all_alike(score.kept[VECTORS]) else None

    def flips(
        self,
        before: Score,
        after: Score,
        truth: Truth,  # noqa: ARG002 - no vector is the right one
        labels: Sequence[str],  # noqa: ARG002 - it has none
    ) -> list[Comparison]:
        """Return the inputs that have another nearest neighbour now.

        Both confidences are the cosine similarity to the neighbour; what was lost is how far the
        vector moved, None where it has another number of numbers.
        """
        vectors = [score.kept[VECTORS] for score in (before, after)]
        moved: Sequence[float | None] = [None] * len(vectors[0])
        if vectors[0].shape == vectors[1].shape:
            moved = (1 - cosines(*vectors)).tolist()
        rows = np.flatnonzero(before.outcomes != after.outcomes)
        near = [
            cosines(found[rows], found[score.outcomes[rows]]).tolist()
            for found, score in zip(vectors, (before, after), strict=True)
        ]
        return [
            Comparison(
                row,
                int(before.outcomes[row]),
                int(after.outcomes[row]),
                old,
                new,
                lost=moved[row],
            )
            for row, old, new in zip(rows.tolist(), *near, strict=True)
        ]

    def samples(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - it has none
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        """Return the inputs whose nearest other one the first model finds nearest."""
        keys = self.identities(truth)
        places = candidates(keys)[:_CANDIDATES]
        pairs = _nearest_of_each(before.kept[VECTORS], keys, places)
        rows = list(islice(_apart(truth.examples, pairs), count))
        queries = as_floats(np.asarray(predict([truth.examples[row] for row in rows])))
        vectors = after.kept[VECTORS]
        now = [
            _nearest(query, vectors, keys, row, places)
            for row, query in zip(rows, queries, strict=True)
        ]
        return [
            Comparison(row, pairs[row][0], other, pairs[row][1], similarity)
            for row, (other, similarity) in zip(rows, now, strict=True)
        ]

    def predictions(
        self,
        outputs: Outputs,
        labels: Sequence[str],  # noqa: ARG002 - it has none
    ) -> NDArray[Any]:
        """Return the vectors as the graph gives them: float32 of shape `(num_examples, width)`.

        Or int8 of the same shape, or uint8 with eight numbers in a byte.
        """
        return _as_given(outputs)


def vectors_of(outputs: Outputs) -> NDArray[np.float32]:
    """Return the vectors that a task of vectors collected, shape `(num_examples, width)`."""
    return as_floats(_as_given(outputs))


def _as_given(outputs: Outputs) -> NDArray[Any]:
    assert isinstance(outputs, Vectors), "the task collects nothing else"
    return outputs.values


def reference_vectors(
    vectors: NDArray[np.float32], truth: Truth, *, same_width: bool
) -> NDArray[np.float32]:
    """Return the untouched checkpoint's vectors of the same inputs, itself where it is scored.

    Raises `ValueError` where they are of other inputs or, with `same_width`, of another width.
    """
    before = vectors if truth.reference is None else truth.reference.kept[VECTORS]
    if len(before) != len(vectors) or (same_width and before.shape != vectors.shape):
        raise ValueError(
            f"vectors of shape {vectors.shape} cannot be compared with the untouched "
            f"checkpoint's, {before.shape}"
        )
    return before


def too_few(found: int, noun: str) -> str | None:
    """Return that so many different inputs say nothing of neighbours; None where they do."""
    if found >= 3:
        return None
    return (
        f"holds {counted(found, f'different {noun}')}; at least 3 are needed, so that each has two "
        f"others to be near to"
    )


def guess_of(
    who: str,
    baseline: Score,
    shares: NDArray[np.float64],
    grades: NDArray[np.float64] | None = None,
    *,
    value: float | None = None,
) -> Guess:
    """Return a guess by its shares: their mean or, with `grades`, their rank correlation.

    `value` is the score where it is neither.
    """
    if value is None:
        value = float(np.mean(shares)) if grades is None else rank_correlation(shares, grades)
    return Guess(who, Score(baseline.metric, value, len(shares), baseline.outcomes, shares=shares))


def _nearest_of_each(
    vectors: NDArray[np.float32], keys: Sequence[Hashable], places: NDArray[np.int64]
) -> dict[int, tuple[int, float]]:
    """Return what `_nearest` does for each of `places`, by their rows, in products of matrices."""
    others = places[nearest(vectors[places], [keys[place] for place in places.tolist()], 1)[:, 0]]
    similarities = cosines(vectors[places], vectors[others])
    rows = zip(places.tolist(), others.tolist(), similarities.tolist(), strict=True)
    return {row: (other, similarity) for row, other, similarity in rows}


def _nearest(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    keys: Sequence[Hashable],
    row: int,
    places: NDArray[np.int64],
) -> tuple[int, float]:
    """Return the nearest other input to that of `row`, and its cosine similarity to `query`."""
    similarities = cosines(np.broadcast_to(query, (len(places), len(query))), vectors[places])
    others = np.array([keys[place] != keys[row] for place in places.tolist()])
    best = int(np.where(others, similarities, -np.inf).argmax())
    return int(places[best]), float(similarities[best])


def _apart(examples: Sequence[Example], pairs: dict[int, tuple[int, float]]) -> Iterator[int]:
    """Yield the rows to show, the nearest pairs first; no input stands in two of them."""
    seen: set[int] = set()
    order = sorted(pairs, key=lambda row: (is_long(examples[row]), -pairs[row][1], row))
    for row in order:
        if row in seen or pairs[row][0] in seen:
            continue
        seen.update((row, pairs[row][0]))
        yield row
