"""Vectors of images and of sounds: a task without labels whose checkpoint says what they are.

Labels are not needed. How good a compressed encoder is, is how near its vectors are to the
untouched checkpoint's, and whether each input keeps its nearest other one, which is what search,
deduplication and classification by neighbours read off vectors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.measurements import Score
from compressor.tasks.base import Ability, Guess, Truth
from compressor.tasks.examples import Example, identity_of
from compressor.tasks.feature_vector import FeatureVector
from compressor.tasks.metrics import Metric, UsualDrop
from compressor.tasks.outputs import Outputs
from compressor.tasks.pooling import Pooling, PoolingMode
from compressor.tasks.similarity import candidates, cosines, nearest, to_the_mean
from compressor.tasks.vectors import (
    VECTORS,
    VectorTask,
    guess_of,
    reference_vectors,
    too_few,
    vectors_of,
)

NEIGHBOUR_AGREEMENT = Metric(
    "neighbour_agreement",
    "neighbour agreement",
    "the share of images or sounds whose nearest other one of the split, by cosine similarity, is "
    "the one that is nearest by the untouched checkpoint's vectors",
    "mean",
    label_free=True,
    usual_drop=UsualDrop(0.01, 0.06, 0.15),
    most_drop=0.15,
    most_pruned_drop=0.0,
)


@dataclass(frozen=True)
class FeatureTask(VectorTask):
    """One vector for each image or sound.

    `pooling` and `normalize` are what the recipe says about how a vector is made of the states of
    patches or frames; None leaves it to the checkpoint.
    """

    pooling: PoolingMode | None = None
    normalize: bool | None = None

    head: ClassVar[str] = "Model"
    noun: ClassVar[str]  # what an input is called
    key: ClassVar[str]  # of config.json, where what is saved says how vectors are made
    cosine_of: ClassVar[tuple[Metric, Metric]]  # the mean of cosines, and their 5th percentile
    only_compares: ClassVar[str]  # what a model does that knows the outlines alone
    abilities: ClassVar[frozenset[Ability]] = frozenset({"vectors", "blends"})

    @abstractmethod
    def vector(self, directory: Path) -> FeatureVector:
        """Return how vectors are made, by the files in `directory`, else by the recipe.

        Raises `EnvironmentMismatch` and `RecipeError` as `how_pooled`.
        """

    @abstractmethod
    def outlines(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return a vector for each input, shape `(num_examples, width)`, without any model."""

    def how_pooled(self, directory: Path) -> Pooling:
        """Return how vectors are made, by the files in `directory`, else by the recipe."""
        return self.vector(directory).pooling()

    def cut_vectors(self, module: Any, dimensions: int) -> None:
        """Cut vectors as config.json will say; raises `ValueError` as the base does."""
        from compressor.tasks.feature_encoder import cut_features

        cut_features(module, self.key, self.vector_width(module.config), dimensions)

    def identities(self, truth: Truth) -> Sequence[bytes | None]:
        """Return digests of the pixels or samples."""
        return [identity_of(example) for example in truth.examples]

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        """Score vectors of shape `(num_examples, width)`; the outcome is the nearest other input.

        Those of `cosine_of` are the mean, or a percentile, of the cosine similarity of each vector
        and the untouched checkpoint's of the same input, `neighbour_agreement` is the share of
        inputs whose nearest other one is the one by the untouched checkpoint's vectors.
        """
        reference, vectors = truth.reference, vectors_of(outputs)
        of_cosines = self._cosine(metric)
        before = reference_vectors(vectors, truth, same_width=of_cosines is not None)
        outcomes = nearest(vectors, self.identities(truth), 1)[:, 0]
        if of_cosines is not None:
            shares = cosines(before, vectors)
            value = of_cosines.value_of(shares)
        elif metric == NEIGHBOUR_AGREEMENT.name:
            shares = same(outcomes if reference is None else reference.outcomes, outcomes)
            value = NEIGHBOUR_AGREEMENT.value_of(shares)
        else:
            shares, value = self.other_score(metric, before, vectors)
        return Score(metric, value, len(shares), outcomes, shares=shares, kept={VECTORS: vectors})

    def other_score(
        self,
        metric: str,
        before: NDArray[np.float32],  # noqa: ARG002 - for tasks with further metrics
        after: NDArray[np.float32],  # noqa: ARG002
    ) -> tuple[NDArray[np.float64], float]:
        """Return what each input adds to another metric, and its value; `KeyError` without it."""
        raise KeyError(metric)

    def unscorable(self, metric: str, truth: Truth) -> str | None:  # noqa: ARG002 - whatever is scored
        """Return that there are too few different inputs."""
        return too_few(len(candidates(self.identities(truth))), self.noun)

    def guesses(
        self,
        baseline: Score,
        truth: Truth,
        labels: Sequence[str],  # noqa: ARG002 - it has none
    ) -> tuple[Guess, ...]:
        """Return what vectors score that know nothing of what is in an input.

        For cosines the one vector that is nearest to all; for `neighbour_agreement` the input that
        is nearest to most, and that whose outlines are nearest, as random weights find it.
        """
        if (of_cosines := self._cosine(baseline.metric)) is not None:
            one = to_the_mean(baseline.kept[VECTORS])
            who = f"a model that gives every {self.noun} the same vector"
            return (guess_of(who, baseline, one, value=of_cosines.value_of(one)),)
        alike = np.full_like(baseline.outcomes, np.bincount(baseline.outcomes).argmax())
        outlined = nearest(self.outlines(truth.examples), self.identities(truth), 1)[:, 0]
        return (
            guess_of(
                f"a model that finds the same {self.noun} for every {self.noun}",
                baseline,
                same(baseline.outcomes, alike),
            ),
            guess_of(
                f"a model that only compares {self.only_compares}",
                baseline,
                same(baseline.outcomes, outlined),
            ),
        )

    def _cosine(self, metric: str) -> Metric | None:
        return next((item for item in self.cosine_of if item.name == metric), None)


def same(before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return 1 where two outcomes are one, else 0."""
    return np.asarray(before == after, dtype=np.float64)
