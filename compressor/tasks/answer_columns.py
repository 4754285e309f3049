"""Turns the columns of questions, contexts and answers into pairs of texts and right answers.

An answer that does not stand where its row says would teach and judge by other words than are
meant; it is refused here with the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.setting_errors import show
from compressor.tasks.answers import Gold, GoldAnswer
from compressor.tasks.columns import Labels, RowKind, TextColumns
from compressor.tasks.examples import Example, texts_of
from compressor.tasks.outputs import LabelArray
from compressor.tasks.ranking import groups_by_text
from compressor.tasks.stored_rows import MadeByRow, are_stored
from compressor.tasks.table import BadRows, Table

_FORM = "{text: [...], answer_start: [...]}, as SQuAD has it, with empty lists for no answer"


class QuestionColumns(TextColumns):
    """A question and a context, and the right answers in the context."""

    holds: ClassVar[RowKind] = "answers"
    names_labels: ClassVar[bool] = False
    group_text: ClassVar[int | None] = 1  # the context
    about_label: ClassVar[str] = "right answers, and where in the context they begin"

    def groups(
        self,
        table: Table,
        columns: Sequence[str],
        group: str | None,  # noqa: ARG002 - a text is told by itself
    ) -> NDArray[np.int64]:
        """Return the questions about one text as a group, so that no cut has it on both sides."""
        return groups_by_text(table.columns[columns[1]])

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],  # noqa: ARG002 - answers are texts
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return the right answers of each row, a tuple of `GoldAnswer`, empty for no answer.

        Of cells that lie in a file they are read by row.

        Raises `RecipeError` for a cell that is none.
        """
        if data_names is not None:
            raise RecipeError("data.label_names: answers are texts here, and no classes; remove it")
        cells, bad = table.columns[column], BadRows()
        in_file = are_stored(cells)
        found = np.empty(0 if in_file else len(table), dtype=object)
        for row, cell in enumerate(cells):
            try:
                gold = read_answers(cell)
            except ValueError as problem:
                bad.add(f"{table.place(row)}: {column} {problem}")
                continue
            if not in_file:
                found[row] = gold
        bad.check()
        return Labels(MadeByRow((cells,), np.arange(len(table)), _gold) if in_file else found)

    def require_columns(self, columns: Sequence[str], *, labelled: bool) -> None:  # noqa: ARG002
        """Raise `RecipeError` unless there are two columns."""
        if len(columns) != 2:
            raise RecipeError(
                f"text: a question is read with its context, and {columns[0]} is one column; list "
                f"both, the question first: [question, context]"
            )

    def require_fit(
        self,
        table: Table,
        rows: Sequence[int],
        examples: Sequence[Example],
        labels: LabelArray,
        column: str,
    ) -> None:
        """Raise `RecipeError` for an answer that does not stand in the context where it should."""
        bad = BadRows()
        for row, example, gold in zip(rows, examples, labels, strict=True):
            context = texts_of(example)[1]
            for answer in gold:
                found = context[answer.start : answer.start + len(answer.text)]
                if found == answer.text:
                    continue
                place = context.find(answer.text)
                where = f"it begins at {place}" if place >= 0 else "the context does not hold it"
                bad.add(
                    f"{table.place(row)}: {column}: {show(answer.text)} is not what stands at "
                    f"character {answer.start} of the context ({show(found)}); {where}; correct "
                    f"the row, or remove it"
                )
        bad.check()


def _gold(row: int, cell: Any) -> Gold:  # noqa: ARG001 - of `MadeByRow`
    return read_answers(cell)


def read_answers(cell: Any) -> Gold:
    """Return the answers of one cell; raises `ValueError` that says what is wrong with it.

    >>> read_answers({"text": ["Paris"], "answer_start": [7]})
    (GoldAnswer(text='Paris', start=7),)
    """
    if cell is None or cell != cell:  # NaN, as pandas writes a missing cell
        raise ValueError(f"is missing; write {_FORM}")
    if isinstance(cell, list):  # how the files of SQuAD itself write them
        return tuple(_answer(item, place) for place, item in enumerate(cell, start=1))
    if not isinstance(cell, Mapping):
        raise ValueError(
            f"must be {_FORM}, got {show(cell)}; JSON lines or parquet hold such cells"
        )
    texts, starts = cell.get("text"), cell.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise ValueError(f"must be {_FORM}, got the keys {', '.join(map(str, cell)) or 'none'}")
    if len(texts) != len(starts):
        raise ValueError(
            f"has {len(texts)} in text and {len(starts)} in answer_start; give one start a text"
        )
    pairs = zip(texts, starts, strict=True)
    return tuple(
        _answer({"text": text, "answer_start": start}, place)
        for place, (text, start) in enumerate(pairs, start=1)
    )


def _answer(item: Any, place: int) -> GoldAnswer:
    if not isinstance(item, Mapping):
        raise ValueError(f"must be {_FORM}, and answer {place} is {show(item)}")
    text, start = item.get("text"), item.get("answer_start")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"has the text {show(text)} for answer {place}; write what stands in the context, or "
            f"leave both lists empty where it holds no answer"
        )
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise ValueError(
            f"has {show(start)} in answer_start for answer {place}; write the character of the "
            f"context that it begins with, from 0 on"
        )
    return GoldAnswer(text, start)
