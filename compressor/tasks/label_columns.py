"""Columns of texts with any number of labels each.

A cell lists label names or ids, or holds a 0 or 1 for each label of the checkpoint, in a list or by
the label's name, as a column for each label gives them. Which of the two numbers of a list are
meant is told by the whole column, and refused where it could be either. Of a checkpoint with one
label a cell may be the 0 or 1 itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.setting_errors import show
from compressor.tasks.columns import Labels, RowKind, TextColumns, check_data_names
from compressor.tasks.label_lists import LabelLists
from compressor.tasks.stored_rows import are_stored
from compressor.tasks.table import BadRows, Table
from compressor.words import few_of

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


class LabelSetColumns(TextColumns):
    """Texts or pairs of texts, with sets of labels."""

    holds: ClassVar[RowKind] = "label sets"
    about_label: ClassVar[str] = "lists of labels: ids or names, or a 0 or 1 for each"

    def require_label_columns(self, columns: Sequence[str]) -> None:
        """Take any number: each is then a label by its name."""

    def labels(
        self,
        table: Table,
        column: str,
        names: Sequence[str],
        data_names: Sequence[str] | None,
    ) -> Labels:
        """Return for each row which labels hold: arrays of bool, shape `(num_labels,)`.

        They are read by row. Zeros and ones are by name, or in the order of the checkpoint's labels
        or, where `data_names` are numbers or the checkpoint's own names, in the order of these.

        Raises `RecipeError` for a cell that is no list, a label that is not the checkpoint's, one
        that a cell lists twice, and numbers that could be ids or zeros and ones.
        """
        cells = _Cells(table, column, data_names or names)
        found = _look(cells, len(names))
        numbered = data_names is not None and _are_numbers(data_names)
        if found.are_flags:
            order = _order_of_flags(names, data_names)
            if order is None:
                check_data_names(data_names, names)
            flags = (np.array(cell, dtype=bool) for cell in cells)
            if order is not None:
                flags = (cell[order] for cell in flags)
            return Labels(cells.kept(flags), has_bare_ids=order is None)
        check_data_names(data_names, names)
        bad = BadRows()
        sets = cells.kept(_sets(cells, data_names or names, len(names), bad))
        bad.check()
        return Labels(sets, has_bare_ids=found.has_ids and not numbered)


def _order_of_flags(names: Sequence[str], data_names: Sequence[str] | None) -> list[int] | None:
    """Return where the flag of each label stands in a cell; None where nothing says."""
    if data_names is None:
        return None
    if _are_numbers(data_names):
        return list(map(int, data_names))
    if set(data_names) == set(names):
        return [data_names.index(name) for name in names]
    return None


@dataclass(frozen=True)
class _Cells:
    """The cells of a column of labels as lists of plain values, read anew each time.

    Reading them raises `RecipeError` at the end, or at a handful, for what is none.
    """

    table: Table
    column: str
    names: Sequence[str]

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the list of each row."""
        bad = BadRows()
        for row, value in enumerate(self.table.columns[self.column]):
            found = _listed(self.table.place(row), self.column, value, self.names, bad)
            if found is not None:
                yield found
        bad.check()

    def kept(self, sets: Iterable[NDArray[np.bool_]]) -> LabelLists:
        """Return sets of labels, which lie in a file where the cells do."""
        in_file = are_stored(self.table.columns[self.column])
        return LabelLists.of(sets, kept_as=bool, dtype=bool, in_file=in_file)


def _listed(
    place: str, column: str, value: Any, names: Sequence[str], bad: BadRows
) -> list[Any] | None:
    """Return the list that a cell is; None where it is none, of which `bad` is told."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, Mapping):
        value = _flagged(place, column, value, names, bad)
    if value is None or value != value:  # NaN, as pandas writes a missing cell
        bad.add(
            f"{place}: {column} is missing; list the labels, [] where none holds, or remove the row"
        )
        return None
    if len(names) == 1 and (holds := flag_of(value)) is not None:
        return [names[0]] if holds else []
    if not isinstance(value, list):
        if len(names) == 1:
            bad.add(
                f"{place}: {column} must be 0 or 1, whether {names[0]} holds, or a list of labels, "
                f"[] where it does not, got {show(value)}"
            )
            return None
        bad.add(
            f"{place}: {column} must be a list of labels, [] where none holds, got {show(value)}; "
            f"write rows as JSON lines or parquet, or list a column of 0 and 1 for each label in "
            f"data.label"
        )
        return None
    return [_plain(item) for item in value]


def _flagged(
    place: str, column: str, cell: Mapping[Any, Any], names: Sequence[str], bad: BadRows
) -> list[str]:
    """Return the labels of a cell that says 0 or 1 for each by its name."""
    given = set(map(str, cell))
    if given != set(names):
        absent, strange = sorted(set(names) - given), sorted(given - set(names))
        parts = [
            *([f"nothing of {few_of(absent)}"] if absent else []),
            *([f"{few_of(strange)}, which is no label"] if strange else []),
        ]
        raise RecipeError(  # at the first: of columns it is the same in every row
            f"{place}: {column} says {' and '.join(parts)}; it must say 0 or 1 for each of the "
            f"labels {few_of(names)}; where the data calls them otherwise, list its names in "
            f"data.label_names in the checkpoint's order"
        )
    held = []
    for name, value in cell.items():
        flag = flag_of(value)
        if flag is None:
            bad.add(f"{place}: {name} must be 0 or 1, whether the label holds, got {show(value)}")
        elif flag:
            held.append(str(name))
    return held


def flag_of(value: Any) -> bool | None:
    """Return whether a cell says that its label holds, as a number or in text; None for neither.

    >>> flag_of(1), flag_of("0"), flag_of(True), flag_of("False"), flag_of(0.0), flag_of("2")
    (True, False, True, False, False, None)
    """
    return (
        _FLAGS.get(str(value).casefold()) if isinstance(value, bool | int | float | str) else None
    )


def _plain(value: Any) -> Any:
    """Return a whole number that was stored as a float as an integer, and a flag as 0 or 1."""
    if isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Found(NamedTuple):
    """What the cells of a column hold: a 0 or 1 for each label, or names or ids, and any ids."""

    are_flags: bool
    has_ids: bool


def _look(cells: _Cells, num_labels: int) -> _Found:
    """Return what all cells together hold; raises `RecipeError` where it could be either."""
    could_be_flags = could_be_ids = True
    has_ids = False
    first: list[Any] | None = None
    for cell in cells:
        first = cell if first is None else first
        are_whole = [type(item) is int for item in cell]
        has_ids = has_ids or any(are_whole)
        could_be_flags = (
            could_be_flags
            and len(cell) == num_labels
            and all(are_whole)
            and all(item in (0, 1) for item in cell)
        )
        # Two labels at most.
        could_be_ids = could_be_ids and could_be_flags and sorted(cell) == list(range(num_labels))
    if first is None or not could_be_flags:
        return _Found(are_flags=False, has_ids=has_ids)
    if could_be_ids:
        raise RecipeError(
            f"{cells.table.name}: {cells.column} is {show(first)} in every row or in another "
            f"order, which could be ids or a 0 or 1 for each label; write the names of the labels"
        )
    return _Found(are_flags=True, has_ids=has_ids)


def _are_numbers(data_names: Sequence[str]) -> bool:
    """Return whether these are the data's ids of the labels, which may be in another order."""
    return set(data_names) == set(map(str, range(len(data_names))))


def _sets(
    cells: _Cells, names: Sequence[str], num_labels: int, bad: BadRows
) -> Iterator[NDArray[np.bool_]]:
    """Yield which labels the names or ids of each cell are; `bad` is told of any other."""
    order = {name: place for place, name in enumerate(names)}
    table, column = cells.table, cells.column
    for row, cell in enumerate(cells):
        held = np.zeros(num_labels, dtype=bool)
        for item in cell:
            place = order.get(item) if isinstance(item, str) else None
            if type(item) is int and 0 <= item < len(names):
                place = order.get(str(item), item)
            if place is None:
                bad.add(
                    f"{table.place(row)}: {column} has {show(item)}, which is no label; the labels "
                    f"are {few_of(names)}, or their ids 0..{len(names) - 1}"
                )
                continue
            if held[place]:
                bad.add(
                    f"{table.place(row)}: {column} lists {show(item)} twice; list each label once"
                )
            held[place] = True
        yield held
