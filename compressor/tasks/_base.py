"""What a task has to say: how examples become inputs, and how logits become a score.

A task is one file in this folder with one `Task` subclass; the file's name with hyphens is the word
in the recipe. Tasks import neither torch nor anything that does, because a shipped artifact uses
them where torch is not installed.
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
Batch = dict[str, NDArray[Any]]  # model inputs by name, the first axis is the batch


@dataclass(frozen=True)
class Task(ABC):
    """One kind of problem; `max_length` cuts token sequences (None: the tokenizer's limit)."""

    max_length: int | None = None

    name: ClassVar[str]
    head: ClassVar[str]  # how the names of transformers architectures for this task end
    input_column: ClassVar[str]  # the key under `data` that names the input column
    metrics: ClassVar[tuple[str, ...]]  # the first is the default
    has_sequence: ClassVar[bool]  # whether inputs have a token axis that can be padded

    @abstractmethod
    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the tokenizer or image processor that lies in `directory` (no code from it runs)."""

    @abstractmethod
    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Turn examples into one padded batch of model inputs; raises on an empty sequence."""

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
    def score(self, metric: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Score:
        """Score `logits` of shape `(num_examples, num_labels)` against `labels`."""
