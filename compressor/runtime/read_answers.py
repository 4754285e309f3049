"""Answers to questions, whose contexts are read in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .candidates import CANDIDATES, answers_of, best_candidates
from .examples import Example, texts_of
from .given import given_questions
from .lengths import by_length
from .questions import Row, encode_questions, require_null_token
from .readers import TextReader
from .session import Graph


class AnswerReader(TextReader):
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
