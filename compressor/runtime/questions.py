"""Questions with their contexts as tokens, in as many rows as it takes to read all of a context.

The question stands in every row; the windows of its context overlap (`windows.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import EnvironmentMismatch, RecipeError
from .examples import Example, texts_of
from .pieces import require_fast
from .windows import Window, windows_of
from .words import show


@dataclass(frozen=True)
class Question:
    """A question and its context; `offsets`, shape `(num_tokens, 2)`, are characters of the latter.

    There is one for each token of the context.
    """

    question: str
    context: str
    offsets: NDArray[np.int64]

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return the characters of the context that tokens stand for, without spaces around them.

        No tokens, -1 and -1, are no characters: 0 and 0.
        """
        if first < 0:
            return 0, 0
        start, end = int(self.offsets[first, 0]), int(self.offsets[last, 1])
        found = self.context[start:end]
        start += len(found) - len(found.lstrip())
        return start, max(start, end - len(found) + len(found.rstrip()))

    def tokens(self, start: int, end: int) -> tuple[int, int]:
        """Return the first and the last token of these characters, -1 and -1 if none is."""
        here = np.flatnonzero((self.offsets[:, 0] < end) & (self.offsets[:, 1] > start))
        return (int(here[0]), int(here[-1])) if len(here) else (-1, -1)


@dataclass(frozen=True)
class Row:
    """One row of a batch: `window` of the context of `question`, from the column `column` on.

    `nothing` is the column of the token that stands for "no answer".
    """

    question: int
    window: Window
    column: int
    nothing: int

    @property
    def columns(self) -> list[int]:
        """Return the column of "no answer", then those of the tokens of the context."""
        size = self.window.end - self.window.start
        return [self.nothing, *range(self.column, self.column + size)]


class QuestionBatch(dict[str, NDArray[Any]]):
    """Model inputs, int64 of shape `(num_rows, tokens)`, and the questions that the rows are of.

    The rows of a question stand together, in the order of its context.
    """

    questions: tuple[Question, ...]
    rows: tuple[Row, ...]


def require_null_token(tokenizer: Any, place: str) -> None:
    """Raise `EnvironmentMismatch` unless a tokenizer gives offsets and a token for "no answer".

    `place` is where it was loaded from.
    """
    needed = "which characters a token stands for, so answers have no place"
    require_fast(tokenizer, place, needed)
    ids = tokenizer("the", "the")["input_ids"]
    if tokenizer.cls_token_id is None or tokenizer.cls_token_id not in ids:
        raise EnvironmentMismatch(
            f"{place}: puts no cls_token into a question with its context, and its logits say that "
            f"there is no answer; give a checkpoint whose tokenizer does, as BERT's and RoBERTa's"
        )


@dataclass(frozen=True)
class _Encoded:
    """A question with all model inputs of it.

    `begin` is the first token of its context, `nothing` the one that stands for "no answer".
    """

    question: Question
    inputs: Mapping[str, NDArray[np.int64]]
    begin: int
    nothing: int

    def null_column(self, window: Window) -> int:
        """Return where "no answer" stands in the row of a window."""
        if self.nothing < self.begin:
            return self.nothing
        return self.nothing - len(self.question.offsets) + window.end - window.start

    def row(self, window: Window) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of one window, with the question and the special tokens."""
        kept = np.ones(len(self.inputs["input_ids"]), dtype=bool)
        kept[self.begin : self.begin + len(self.question.offsets)] = False
        kept[self.begin + window.start : self.begin + window.end] = True
        return {name: value[kept] for name, value in self.inputs.items()}


def _read(tokenizer: Any, examples: Sequence[Example]) -> list[_Encoded]:
    """Return the questions with their whole contexts, however long."""
    if not examples:
        raise ValueError("a batch needs at least one question")
    pairs = [texts_of(example) for example in examples]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a question is read with its context; give pairs of both")
    questions, contexts = ([pair[place] for pair in pairs] for place in (0, 1))
    # Where padding stands in front, models read the question last, as transformers' pipeline does.
    is_first = tokenizer.padding_side == "right"
    encoded = tokenizer(
        questions if is_first else contexts,
        contexts if is_first else questions,
        return_offsets_mapping=True,
        verbose=False,  # that one is longer than the model reads is no news
    )
    offsets = encoded.pop("offset_mapping")
    found = []
    for row, (question, context) in enumerate(pairs):
        inputs = {name: np.array(rows[row], np.int64) for name, rows in encoded.items()}
        sequences = encoded.sequence_ids(row)
        own = np.array([item == int(is_first) for item in sequences], dtype=bool)
        special = np.array([item is None for item in sequences], dtype=bool)
        places = np.array(offsets[row], dtype=np.int64).reshape(-1, 2)[own]
        begin = int(own.argmax()) if own.any() else len(own)
        nothing = np.flatnonzero(special & (inputs["input_ids"] == tokenizer.cls_token_id))
        question_of = Question(question, context, places)
        found.append(_Encoded(question_of, inputs, begin, int(nothing[0])))
    return found


def encode_questions(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int | None
) -> QuestionBatch:
    """Turn questions into one padded batch, of at most `max_tokens` tokens a row.

    Raises `RecipeError` for a question that leaves no room for its context, `ValueError` for none
    at all and for what is no pair.
    """
    rows: list[Row] = []
    values: list[dict[str, NDArray[np.int64]]] = []
    read = _read(tokenizer, examples)
    for number, encoded in enumerate(read):
        size = len(encoded.question.offsets)
        rest = len(encoded.inputs["input_ids"]) - size
        room = size if max_tokens is None else max_tokens - rest
        if size and room < 1:
            raise RecipeError(
                f"the question {show(encoded.question.question)} takes {rest} tokens with the "
                f"special ones, and of {max_tokens} none is left for its context; shorten it, or "
                f"read more tokens (max_length)"
            )
        for window in windows_of(size, max(1, room)):
            rows.append(Row(number, window, encoded.begin, encoded.null_column(window)))
            values.append(encoded.row(window))
    return _padded(tokenizer, [encoded.question for encoded in read], rows, values)


def _padded(
    tokenizer: Any,
    questions: Sequence[Question],
    rows: Sequence[Row],
    values: Sequence[Mapping[str, NDArray[np.int64]]],
) -> QuestionBatch:
    """Return rows of one length, padded on the side and with the ids that the tokenizer says."""
    length = max(len(value["input_ids"]) for value in values)
    fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    shifts = [
        length - len(value["input_ids"]) if tokenizer.padding_side == "left" else 0
        for value in values
    ]
    batch = QuestionBatch()
    for name in values[0]:
        batch[name] = np.full((len(values), length), fills.get(name, 0), dtype=np.int64)
        for row, (value, shift) in enumerate(zip(values, shifts, strict=True)):
            batch[name][row, shift:][: len(value[name])] = value[name]
    batch.questions = tuple(questions)
    batch.rows = tuple(
        Row(row.question, row.window, row.column + shift, row.nothing + shift)
        for row, shift in zip(rows, shifts, strict=True)
    )
    return batch


def count_question_tokens(tokenizer: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
    """Return how many tokens questions have with their whole contexts, in however many rows."""
    found = [len(item.inputs["input_ids"]) for item in _read(tokenizer, examples)]
    return np.array(found, dtype=np.int64)
