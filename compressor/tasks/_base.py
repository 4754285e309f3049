"""What a task has to say: how examples become inputs, and how a model's outputs become a score.

A task is one file in this folder with one `Task` subclass; the file's name with hyphens is the word
in the recipe. A task owns its output: `output` names it in the PyTorch module and in the ONNX
graph, `score` says how good such outputs are, and `answers` what a user of an artifact gets of
them. A classifier's outputs are logits, one for each label; an encoder's are vectors. Nothing else
in the package has to know more of them than that the first axis is the batch.

Tasks import neither torch nor anything that does, because a shipped artifact uses them where torch
is not installed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.measurements import Score

# A text, a pair of texts, or an image as uint8 of shape (height, width) or (height, width, 3).
Example = str | tuple[str, str] | NDArray[np.uint8]
DRAWS = 19  # of a random guess; one in twenty does better than the best of them
Batch = dict[str, NDArray[Any]]  # model inputs by name, the first axis is the batch


@dataclass(frozen=True)
class Truth:
    """What a model's outputs on a split are compared with; what the split does not have is None.

    `labels`, shape `(num_examples,)`, are class ids. `grades`, shape `(num_examples / 2,)`, say how
    similar two neighbouring texts are, the more the higher. `reference` is the untouched
    checkpoint's score on the same examples.
    """

    examples: Sequence[Example]
    labels: NDArray[np.int64] | None = None
    grades: NDArray[np.float64] | None = None
    reference: Score | None = None


@dataclass(frozen=True)
class Guess:
    """The score of a model that knows nothing of its input; `who` names the model."""

    who: str
    score: Score


@dataclass(frozen=True)
class Task(ABC):
    """One kind of problem; `max_length` cuts token sequences (None: the tokenizer's limit)."""

    max_length: int | None = None

    name: ClassVar[str]
    head: ClassVar[str]  # how the names of transformers architectures for this task end
    output: ClassVar[str]  # the name of what the model gives
    input_column: ClassVar[str]  # the key under `data` that names the input column
    metrics: ClassVar[tuple[str, ...]]  # the first is the default
    has_sequence: ClassVar[bool]  # whether inputs have a token axis that can be padded
    names_labels: ClassVar[bool]  # whether outputs are of classes with names
    splits_pairs: ClassVar[bool]  # whether a pair of texts is two examples

    @classmethod
    @abstractmethod
    def require_files(cls, directory: Path) -> None:
        """Raise `OSError` when the files of the tokenizer or image processor are missing."""

    @abstractmethod
    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the tokenizer or image processor that lies in `directory` (no code from it runs)."""

    @abstractmethod
    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:
        """Return what a user gave as a list of examples.

        `pairs` says whether an example is a pair of texts, None where that is not known. Raises
        `ValueError` for anything that is no such list.
        """

    @abstractmethod
    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Turn examples into one padded batch of model inputs; raises on an empty sequence."""

    def token_counts(
        self,
        preprocessor: Any,  # noqa: ARG002 - for tasks with a sequence
        examples: Sequence[Example],  # noqa: ARG002
    ) -> NDArray[np.int64] | None:
        """Return how many tokens each whole example has; None for a task without a sequence."""
        return None

    @abstractmethod
    def benchmark_batch(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        batch_size: int,
        sequence_length: int | None,
    ) -> Batch:
        """Return a batch of real inputs, every row `sequence_length` tokens without padding.

        Raises `RecipeError` when the model takes no sequence of that length.
        """

    @abstractmethod
    def dummy_example(self, length: int) -> Example:
        """Return an example that encodes to about `length` tokens (ignored without a sequence)."""

    @abstractmethod
    def score(self, metric: str, outputs: NDArray[np.float32], truth: Truth) -> Score:
        """Score `outputs`, shape `(num_examples, width)`, in the order of `truth.examples`.

        A metric that compares with the untouched checkpoint takes `outputs` for its own where
        `truth` has no reference. Ask `unscorable` first.
        """

    @abstractmethod
    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return why `metric` cannot be taken on these examples, for `data.search: ...`, or None.

        It reads nothing that a model gave, so that the answer is there before one runs.
        """

    @abstractmethod
    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        """Say what a model gave alike for every example, such as "answers 'no'"; None otherwise.

        Whatever becomes of such a model, its score stays the same. `labels` are the label names.
        """

    @abstractmethod
    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return what models that know nothing of their input score where `baseline` was taken.

        `baseline` is the untouched checkpoint's score, in the metric of all the guesses. What does
        not lie clearly above the best of them proves nothing about a model.
        """

    @abstractmethod
    def right_answers(self, metric: str, truth: Truth) -> NDArray[np.int64] | None:
        """Return the class of each example that counts as right, None where none does."""

    @abstractmethod
    def answers(self, outputs: NDArray[np.float32], labels: Sequence[str]) -> Any:
        """Return what a user of an artifact wants to have of `outputs`."""
