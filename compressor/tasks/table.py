"""Rows as columns of plain Python values, with the place of each row for errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.setting_errors import close_words, did_you_mean, first_repeated, show
from compressor.tasks.retrieval import Judged
from compressor.tasks.stored_rows import MadeByRow, are_stored

_MAX_MISTAKES = 5  # bad rows reported; a file of the wrong kind has one in every line


@dataclass(frozen=True)
class Table:
    """Columns of equal length; `lines` are the first lines of the rows in a text file."""

    name: str
    columns: Mapping[str, Sequence[Any]] = field(repr=False)
    lines: Sequence[int] | None = field(default=None, repr=False)
    directory: Path | None = None  # what image paths are relative to
    positions: NDArray[np.int64] | None = None  # of the rows in their source; None: 0, 1, 2, ...
    judged: Sequence[Judged] | None = field(default=None, repr=False)  # rows that are queries
    note: str = ""  # what was done to the rows after they were read

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values()), []))

    def source_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions in the source of these `rows` of the table."""
        return rows if self.positions is None else self.positions[rows]

    def with_sets(self, columns: Sequence[str]) -> Table:
        """Return the table with these columns as one, called by all their names.

        Its cells are mappings from a name to the value. Of a single column, and where none of them
        is there, the table stays as it is. Raises `RecipeError` where only some are.
        """
        absent = [name for name in columns if name not in self.columns]
        if len(columns) < 2 or len(absent) == len(columns):
            return self
        if absent:
            raise RecipeError(
                f"{self.name}: no column '{absent[0]}', and others of the labels are there; name "
                f"the columns of this file in `label` of its split, or leave all of them out"
            )
        given = tuple(self.columns[name] for name in columns)

        def cell(row: int, *values: Any) -> dict[str, Any]:  # noqa: ARG001 - of `MadeByRow`
            return dict(zip(columns, values, strict=True))

        made = MadeByRow(given, np.arange(len(self)), cell)
        cells = made if are_stored(*given) else list(made)
        return replace(self, columns={**self.columns, ", ".join(columns): cells})

    def place(self, row: int) -> str:
        """Return `file:line`, or the row's position where there are no lines."""
        if self.lines is not None:
            return f"{self.name}:{self.lines[row]}"
        return f"{self.name}: row {row} (the first is 0)"


@dataclass
class BadRows:
    """Collects what is wrong with single rows, and raises `RecipeError` at a handful."""

    _mistakes: list[str] = field(default_factory=list)

    def add(self, mistake: str) -> None:
        """Remember one mistake."""
        self._mistakes.append(mistake)
        if len(self._mistakes) == _MAX_MISTAKES:
            self.check()

    def check(self) -> None:
        """Raise when anything was added."""
        if self._mistakes:
            raise RecipeError(self._mistakes)


def require_each_once(place: str, header: Sequence[str]) -> None:
    """Raise `RecipeError` when a column appears twice."""
    twice = first_repeated(header)
    if twice is not None:
        raise RecipeError(f"{place}: column {show(twice)} appears twice; rename one of them")


def choose_columns(
    name: str, present: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> list[str]:
    """Return the columns to read.

    Raises `RecipeError` naming each required one that is absent, and an optional one that seems
    misspelt: rows would silently count as unlabelled.
    """
    known, needed = set(present), set(required)
    absent = [
        column
        for column in dict.fromkeys((*required, *optional))
        if column not in known and (column in needed or close_words(column, present, cutoff=0.8))
    ]
    if absent:
        raise RecipeError(
            [
                f"{name}: no column '{column}'{did_you_mean(column, present, noun='columns')}"
                for column in absent
            ]
        )
    return list(dict.fromkeys([*required, *(item for item in optional if item in known)]))
