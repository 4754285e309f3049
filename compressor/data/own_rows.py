"""Rows through a function of the user's own, as `data.preprocess` names one.

A row goes in by itself and comes out by itself: so it keeps its place in the file, and no row knows
of another, which is what a proof by rows rests on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compressor.data.readers import column_names, read_table
from compressor.data.settings import SplitSource
from compressor.errors import RecipeError
from compressor.own_code import OwnFunction, shown
from compressor.setting_errors import names_shown
from compressor.tasks.table import Table, choose_columns

Row = dict[str, Any]


def read_rows(
    source: SplitSource,
    required: Sequence[str],
    optional: Sequence[str],
    preprocess: OwnFunction | None,
) -> Table:
    """Read columns as `read_table` does; those that `preprocess` makes of the file's, if given.

    Raises as `read_table` and `preprocessed` do.
    """
    if preprocess is None:
        return read_table(source, required, optional)
    table = preprocessed(read_table(source, column_names(source), ()), preprocess)
    chosen = choose_columns(
        f"{table.name} after {preprocess.reference}", list(table.columns), required, optional
    )
    return replace(table, columns={name: table.columns[name] for name in chosen})


def preprocessed(table: Table, function: OwnFunction) -> Table:
    """Return the rows that `function` makes of the table's, without those it gives None for.

    Each call gets a copy, and each row is given twice, so that a result by chance is found. All
    rows that come out must have the same columns.

    Raises `OwnCodeError` for whatever is wrong with the function, naming the row, `RecipeError`
    where no row is left.
    """
    names = list(table.columns)
    kept: list[int] = []
    rows: list[Row] = []
    for number in range(len(table)):
        row = {name: table.columns[name][number] for name in names}
        found = _called(function, row, table.place(number))
        if found is None:
            continue
        if rows and found.keys() != rows[0].keys():
            raise function.wrong(
                f"gave the columns {names_shown(list(found))} for {table.place(number)}, and "
                f"{names_shown(list(rows[0]))} for {table.place(kept[0])}; give every row the same"
            )
        kept.append(number)
        rows.append(found)
    if not rows:
        raise RecipeError(f"{table.name}: {function.reference} gave None for every row; return it")
    positions = np.array(kept, dtype=np.int64)
    return Table(
        table.name,
        {name: [row[name] for row in rows] for name in rows[0]},
        lines=None if table.lines is None else [table.lines[number] for number in kept],
        directory=table.directory,
        positions=table.source_rows(positions),
        note=f" (through {function.reference}, which left out {len(table) - len(kept):,})",
    )


def _called(function: OwnFunction, row: Row, place: str) -> Row | None:
    """Return what a function makes of a row; raises `OwnCodeError` where it is no row."""
    given = copy.deepcopy(row)
    try:
        found = function(given)
        again = function(copy.deepcopy(row))
    except RecipeError as error:
        head, newline, trace = error.mistakes[0].partition("\n")
        raise type(error)(f"{head}, for {place}{newline}{trace}") from error
    if found is None:
        if not _same(given, row):
            raise function.wrong(
                f"changed {place} and returned None, which leaves the row out; return the row"
            )
    elif not isinstance(found, dict) or not all(isinstance(key, str) for key in found) or not found:
        raise function.wrong(
            f"must return a row, a dict of columns by their names, or None to leave it out, and "
            f"gave {shown(found)} for {place}"
        )
    if not _same(found, again):
        raise function.wrong(
            f"gave {shown(found)} for {place}, and {shown(again)} when it was asked again; make it "
            f"depend on the row alone, without chance, time or what it was given before"
        )
    kept: Row | None = found
    return kept


def _same(first: object, second: object) -> bool:
    """Return whether two rows, or cells of them, are equal; a NaN is equal to another."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            _same(first[key], second[key]) for key in first
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        pairs = zip(first, second, strict=False)
        return len(first) == len(second) and all(_same(one, other) for one, other in pairs)
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(np.asarray(first), np.asarray(second))
    if isinstance(first, float) and isinstance(second, float) and first != first:
        return second != second
    return type(first) is type(second) and bool(first == second)
