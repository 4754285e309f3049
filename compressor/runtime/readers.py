"""What each task makes of examples and of a graph's numbers, one reader for each.

A reader is told of a task by `manifest.json` alone. It reads examples in batches of similar length,
so that little is padded, and gives predictions in the order of the examples.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .activations import HeadProblem, read_activation
from .candidates import best_candidates
from .errors import EnvironmentMismatch
from .examples import Example, texts_of
from .filling import fill, likeliest, require_mask, rows_together
from .given import given_documents, given_questions, given_texts
from .manifest import reads_pairs
from .pieces import encode_documents, of_documents, require_words
from .predictions import CANDIDATES, answers_of, chosen_labels, scored_labels
from .probabilities import sigmoid
from .prompts import Prompted, prompts_of
from .questions import Row, encode_questions, require_null_token
from .session import Graph
from .spans import AGGREGATIONS, Aggregation, spans_of
from .tags import SchemeProblem, read_tags
from .texts import NO_LIMIT, require_tokens
from .tokenizer import Tokenizer


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the places of the examples of each batch; those of similar length stand together.

    >>> [batch.tolist() for batch in by_length([5, 1, 4, 2], 2)]
    [[1, 3], [2, 0]]
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class Reader(ABC):
    """Predictions of one artifact; threads may share it."""

    output: ClassVar[str] = "logits"
    cuts: ClassVar[bool] = True  # a text that is too long; else it is read in windows

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.task: str = manifest["task"]
        self.labels: list[str] = manifest["labels"]
        self.pairs = reads_pairs(manifest)
        limit = manifest["max_length"] or NO_LIMIT
        self.tokenizer = Tokenizer.load(directory, cut=limit if self.cuts else None)
        limit = min(limit, self.tokenizer.model_max_length)
        self.max_length = None if limit >= NO_LIMIT else limit

    def given(self, value: Any) -> Sequence[Example]:
        """Return what a user gave as a list of examples; raises `ValueError` for what is none."""
        return given_texts(value, pairs=self.pairs)

    @abstractmethod
    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any] | NDArray[Any]:
        """Return the prediction for each example."""

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


class RowReader(Reader):
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


class SpanReader(Reader):
    """Entities, or other tags of words, of texts and of lists of words."""

    cuts: ClassVar[bool] = False

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        require_words(self.tokenizer, str(directory))
        self.aggregation: Aggregation = "first"
        try:
            self.tags = read_tags(self.labels)
        except SchemeProblem as error:
            raise EnvironmentMismatch(f"{directory}: {error}") from error

    def given(self, value: Any) -> Sequence[Example]:
        """Return texts, or lists of words, as a list."""
        return given_documents(value)

    def aggregated(self, strategy: str) -> Self:
        """Return the reader that puts tokens together by `strategy`; raises `ValueError`."""
        for known in AGGREGATIONS:
            if known == strategy:
                other = copy.copy(self)
                other.aggregation = known
                return other
        raise ValueError(f"aggregation: must be one of {', '.join(AGGREGATIONS)}, got {strategy!r}")

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any]:
        """Return the spans of each document."""
        found: list[Any] = [None] * len(examples)
        lengths = [len(texts_of(example)[0]) for example in examples]
        for places in by_length(lengths, batch_size):
            own = [examples[place] for place in places]
            batch = encode_documents(self.tokenizer, own, self.max_length)
            logits = of_documents(batch, graph.some_at_a_time(batch, batch_size))
            for place, document, values in zip(places, batch.documents, logits, strict=True):
                found[place] = spans_of(document, values, self.tags, self.aggregation)
        return found


class AnswerReader(Reader):
    """Answers to questions."""

    cuts: ClassVar[bool] = False

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        require_null_token(self.tokenizer, str(directory))

    def given(self, value: Any) -> Sequence[Example]:
        """Return pairs of a question and its context."""
        return given_questions(value)

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any]:
        """Return the best answers to each question, at most 5, the best first."""
        found: list[Any] = [None] * len(examples)
        for places in by_length([sum(map(len, texts_of(pair))) for pair in examples], batch_size):
            own = [examples[place] for place in places]
            batch = encode_questions(self.tokenizer, own, self.max_length)
            logits = graph.some_at_a_time(batch, batch_size)
            rows: list[list[tuple[Row, NDArray[np.float32]]]] = [[] for _ in own]
            for row, values in zip(batch.rows, logits, strict=True):
                rows[row.question].append((row, values[row.columns]))
            for place, question, parts in zip(places, batch.questions, rows, strict=True):
                windows, values_of = zip(*((row.window, own) for row, own in parts), strict=True)
                best = best_candidates(windows, values_of, CANDIDATES)
                found[place] = answers_of(question, best)
        return found


class FillReader(Reader):
    """Tokens for the places of a text where a mask token stands."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        if self.tokenizer.mask_token_id is None:
            raise EnvironmentMismatch(
                f"{directory}: its tokenizer names no mask_token; copy the artifact again"
            )

    def given(self, value: Any) -> Sequence[Example]:
        """Return texts."""
        return given_texts(value, pairs=False)

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any]:
        """Return the five likeliest tokens of each text's mask token, of several a list of each."""
        texts = [texts_of(example)[0] for example in examples]
        encoded = self.tokenizer(
            texts, truncation=self.max_length is not None, max_length=self.max_length
        )
        all_ids = [np.array(row, dtype=np.int64) for row in encoded["input_ids"]]
        require_tokens([len(ids) for ids in all_ids], texts)
        masks = [ids == self.tokenizer.mask_token_id for ids in all_ids]
        for text, is_mask in zip(texts, masks, strict=True):
            require_mask(self.tokenizer, text, is_mask)
        longest = max(map(len, all_ids))
        together = min(batch_size, rows_together(longest, len(self.tokenizer)))
        found: list[Any] = [None] * len(examples)
        for places in by_length([len(ids) for ids in all_ids], together):
            own = {name: [rows[place] for place in places] for name, rows in encoded.items()}
            batch = self.tokenizer.padded(own)
            logits = graph(batch)
            kept = batch["attention_mask"] != 0
            for row, place in enumerate(places):
                at = np.flatnonzero(masks[place])
                top, scores, _ = likeliest(logits[row, kept[row]][at])
                filled = fill(self.tokenizer, all_ids[place], at, top, scores)
                found[place] = filled[0] if len(at) == 1 else filled
        return found


READERS: dict[str, type[Reader]] = {
    "masked-language-modeling": FillReader,
    "multi-label-classification": LabelReader,
    "question-answering": AnswerReader,
    "sentence-embedding": VectorReader,
    "text-classification": ClassReader,
    "text-scoring": ScoreReader,
    "token-classification": SpanReader,
}
# Those that need more than this package.
ELSEWHERE = ("audio-classification", "image-classification", "image-features")
