"""The columns of the throw-away task: a list of words a row, and a list with a tag for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from compressor.errors import RecipeError
from compressor.tasks import Example
from compressor.tasks.columns import Columns, Labels
from compressor.tasks.table import BadRows, Table


@dataclass(frozen=True)
class Words:
    """A document, word by word."""

    words: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the document as one text."""
        return (" ".join(self.words),)


class WordColumns(Columns):
    """Lists of words, and lists of tags."""

    input_column: ClassVar[str] = "text"

    def examples(
        self, table: Table, columns: Sequence[str], rows: Sequence[int]
    ) -> tuple[Example, ...]:
        """Return the documents in `rows`; raises `RecipeError` for a cell that is no list."""
        values, bad = table.columns[columns[0]], BadRows()
        for row in rows:
            if not isinstance(values[row], list) or not values[row]:
                bad.add(f"{table.place(row)}: {columns[0]} must be a list of words")
        bad.check()
        return tuple(Words(tuple(values[row])) for row in rows)

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return the ids of each document's tags, one array a document."""
        order = {name: index for index, name in enumerate(data_names or names)}
        found = np.empty(len(table), dtype=object)
        for row, tags in enumerate(table.columns[column]):
            if unknown := set(tags) - set(order):
                raise RecipeError(f"{table.place(row)}: {column} has no tag {min(unknown)}")
            found[row] = np.array([order[tag] for tag in tags], dtype=np.int64)
        return Labels(found)
