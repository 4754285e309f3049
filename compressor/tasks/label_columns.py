"""Columns of texts with any number of labels each.

A cell lists label names or ids, or holds a 0 or 1 for each label of the checkpoint, in a list or by
the label's name, as a column for each label gives them. Which of the two numbers of a list are
meant is told by the whole column, and refused where it could be either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.setting_errors import show
from compressor.tasks.columns import Labels, RowKind, TextColumns, check_data_names
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

        Zeros and ones are by name, or in the order of the checkpoint's labels or, where
        `data_names` are numbers or the checkpoint's own names, in the order of these.

        Raises `RecipeError` for a cell that is no list, a label that is not the checkpoint's, one
        that a cell lists twice, and numbers that could be ids or zeros and ones.
        """
        cells = _lists(table, column, data_names or names)
        found = np.empty(len(table), dtype=object)
        numbered = data_names is not None and _are_numbers(data_names)
        if _are_flags(table, column, cells, len(names)):
            order = _order_of_flags(names, data_names)
            if order is None:
                check_data_names(data_names, names)
            for row, cell in enumerate(cells):
                flags = np.array(cell, dtype=bool)
                found[row] = flags if order is None else flags[order]
            return Labels(found, has_bare_ids=order is None)
        check_data_names(data_names, names)
        for row, places in enumerate(_places(table, column, cells, data_names or names)):
            found[row] = np.zeros(len(names), dtype=bool)
            found[row][places] = True
        has_ids = any(type(value) is int for cell in cells for value in cell)
        return Labels(found, has_bare_ids=has_ids and not numbered)


def _order_of_flags(names: Sequence[str], data_names: Sequence[str] | None) -> list[int] | None:
    """Return where the flag of each label stands in a cell; None where nothing says."""
    if data_names is None:
        return None
    if _are_numbers(data_names):
        return list(map(int, data_names))
    if set(data_names) == set(names):
        return [data_names.index(name) for name in names]
    return None


def _lists(table: Table, column: str, names: Sequence[str]) -> list[list[Any]]:
    cells: list[list[Any]] = []
    bad = BadRows()
    for row, value in enumerate(table.columns[column]):
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, tuple):
            value = list(value)
        if isinstance(value, Mapping):
            value = _flagged(table.place(row), column, value, names, bad)
        if value is None or value != value:  # NaN, as pandas writes a missing cell
            bad.add(
                f"{table.place(row)}: {column} is missing; list the labels, [] where none holds, "
                f"or remove the row"
            )
            continue
        if not isinstance(value, list):
            bad.add(
                f"{table.place(row)}: {column} must be a list of labels, [] where none holds, got "
                f"{show(value)}; write rows as JSON lines or parquet, or list a column of 0 and 1 "
                f"for each label in data.label"
            )
            continue
        cells.append([_plain(item) for item in value])
    bad.check()
    return cells


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


def _are_flags(table: Table, column: str, cells: list[list[Any]], num_labels: int) -> bool:
    """Return whether each cell holds a 0 or 1 for each label, rather than names or ids."""
    fits = all(
        len(cell) == num_labels and all(type(item) is int and item in (0, 1) for item in cell)
        for cell in cells
    )
    if not fits or not cells:
        return False
    if all(sorted(cell) == list(range(num_labels)) for cell in cells):  # two labels at most
        raise RecipeError(
            f"{table.name}: {column} is {show(cells[0])} in every row or in another order, which "
            f"could be ids or a 0 or 1 for each label; write the names of the labels"
        )
    return True


def _are_numbers(data_names: Sequence[str]) -> bool:
    """Return whether these are the data's ids of the labels, which may be in another order."""
    return set(data_names) == set(map(str, range(len(data_names))))


def _places(
    table: Table, column: str, cells: list[list[Any]], names: Sequence[str]
) -> list[NDArray[np.int64]]:
    order = {name: place for place, name in enumerate(names)}
    found: list[NDArray[np.int64]] = []
    bad = BadRows()
    for row, cell in enumerate(cells):
        places = []
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
            if place in places:
                bad.add(
                    f"{table.place(row)}: {column} lists {show(item)} twice; list each label once"
                )
            places.append(place)
        found.append(np.array(places, dtype=np.int64))
    bad.check()
    return found
