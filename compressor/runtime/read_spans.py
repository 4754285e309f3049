"""Spans of documents, which are read in windows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from .errors import EnvironmentMismatch
from .examples import Example, texts_of
from .given import given_documents
from .lengths import by_length
from .pieces import encode_documents, of_documents, require_words
from .readers import TextReader
from .session import Graph
from .spans import AGGREGATIONS, Aggregation, spans_of
from .tags import SchemeProblem, read_tags


class SpanReader(TextReader):
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
