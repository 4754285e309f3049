"""What the tasks with a row of numbers for each text make of examples, and what all readers share.

A reader is told of a task by `manifest.json` alone. It reads examples in batches of similar length,
so that little is padded, and gives predictions in the order of the examples.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .activations import HeadProblem, read_activation
from .errors import EnvironmentMismatch
from .examples import Example, texts_of
from .given import given_texts
from .lengths import by_length
from .manifest import reads_pairs
from .predictions import chosen_labels, scored_labels
from .probabilities import sigmoid
from .prompts import Prompted, prompts_of
from .session import Graph
from .texts import NO_LIMIT, require_tokens
from .tokenizer import Tokenizer


class Reader(ABC):
    """Predictions of one artifact; threads may share it."""

    output: ClassVar[str] = "logits"

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:  # noqa: ARG002
        self.task: str = manifest["task"]
        self.labels: list[str] = manifest["labels"]

    @abstractmethod
    def given(self, value: Any) -> Sequence[Any]:
        """Return what a user gave as a list of examples; raises `ValueError` for what is none."""

    @abstractmethod
    def predictions(
        self, graph: Graph, examples: Sequence[Any], batch_size: int
    ) -> Sequence[Any] | NDArray[Any]:
        """Return the prediction for each example."""

    def rows(self, graph: Graph, examples: Sequence[Any], batch_size: int) -> NDArray[Any]:  # noqa: ARG002
        """Return what the graph gives for each example: `(num_examples, width)`.

        Raises `ValueError` for a task that gives no row of numbers for an example.
        """
        raise ValueError(f"logits: {self.task} gives no row of numbers for each example")

    def prompted(self, prompt_name: str) -> Self:
        """Return the reader that puts the prompt of that name before every text.

        Raises `ValueError` where there is none.
        """
        raise ValueError(f"prompt_name: {self.task} reads no prompts, got '{prompt_name}'")

    def aggregated(self, strategy: str) -> Self:  # noqa: ARG002 - for tasks that give tokens
        """Return the reader that puts tokens together by `strategy`.

        Raises `ValueError` where there are none to put together, or for an unknown strategy.
        """
        raise ValueError(f"aggregation: {self.task} gives no tags of tokens; leave it out")


class TextReader(Reader):
    """What all tasks on texts share."""

    cuts: ClassVar[bool] = True  # a text that is too long; else it is read in windows

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        self.pairs = reads_pairs(manifest)
        limit = manifest["max_length"] or NO_LIMIT
        self.tokenizer = Tokenizer.load(directory, cut=limit if self.cuts else None)
        limit = min(limit, self.tokenizer.model_max_length)
        self.max_length = None if limit >= NO_LIMIT else limit

    def given(self, value: Any) -> Sequence[Example]:
        """Return texts, or pairs of texts."""
        return given_texts(value, pairs=self.pairs)


class RowReader(TextReader):
    """One row of numbers for each text, or pair of texts."""

    def rows(self, graph: Graph, examples: Sequence[Example], batch_size: int) -> NDArray[Any]:
        """Return what the graph gives for each example: `(num_examples, width)`."""
        pairs = [example for example in examples if isinstance(example, tuple)]
        encoded = self.tokenizer(
            [texts_of(example)[0] for example in examples],
            [str(pair[1]) for pair in pairs] if pairs else None,
            truncation=self.max_length is not None,
            max_length=self.max_length,
        )
        require_tokens([len(row) for row in encoded["input_ids"]], examples)
        found: NDArray[Any] | None = None
        lengths = [len(row) for row in encoded["input_ids"]]
        for places in by_length(lengths, batch_size):
            own = {name: [rows[place] for place in places] for name, rows in encoded.items()}
            values = graph(self.tokenizer.padded(own))
            if found is None:
                found = np.empty((len(examples), *values.shape[1:]), dtype=values.dtype)
            found[places] = values
        assert found is not None, "there is at least one example"
        return found


class ClassReader(RowReader):
    """One of several labels."""

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any]:
        """Return the label with the largest logit of each example."""
        return chosen_labels(self.rows(graph, examples, batch_size), self.labels)


class LabelReader(RowReader):
    """Any number of labels."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        own = manifest.get("thresholds")
        self.thresholds = None if own is None else tuple(own)

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any]:
        """Return the score of every label for each example."""
        return scored_labels(self.rows(graph, examples, batch_size), self.labels, self.thresholds)


class ScoreReader(RowReader):
    """One number."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        place = directory / "config.json"
        try:
            config = json.loads(place.read_text(encoding="utf-8"))
            self.activation = read_activation(config, None)
        except (OSError, ValueError, AttributeError, HeadProblem) as error:
            raise EnvironmentMismatch(
                f"{place}: does not say what a score is ({error}); copy the artifact again"
            ) from error

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> NDArray[np.float32]:
        """Return the scores, float32 of shape `(num_examples,)`."""
        logits = self.rows(graph, examples, batch_size)[:, 0]
        return logits if self.activation == "identity" else sigmoid(logits)


class VectorReader(RowReader):
    """One vector."""

    output: ClassVar[str] = "sentence_embedding"

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        self.prompts = prompts_of(self.tokenizer)
        self.prompt_name: str | None = None

    def given(self, value: Any) -> Sequence[Example]:
        """Return single texts, whatever the rows were that the model was judged on."""
        return given_texts(value, pairs=False)

    def prompted(self, prompt_name: str) -> Self:
        """Return the reader that puts the prompt of that name before every text; as the base."""
        self.prompts.require(prompt_name)
        other = copy.copy(self)
        other.prompt_name = prompt_name
        return other

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> NDArray[Any]:
        """Return the vectors, as the graph gives them."""
        return self.rows(graph, examples, batch_size)

    def rows(self, graph: Graph, examples: Sequence[Example], batch_size: int) -> NDArray[Any]:
        """Return the vectors of texts, which are read after their prompt."""
        given = [Prompted(texts_of(example)[0], self.prompt_name) for example in examples]
        return super().rows(graph, [self.prompts.read(item) for item in given], batch_size)
