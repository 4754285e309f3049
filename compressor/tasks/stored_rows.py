"""Columns and examples that lie in a file and are read by row, for splits larger than memory.

They stand where lists of values and tuples of examples stand for small files, and are read in the
same ways; nothing keeps what was read.
"""

from __future__ import annotations

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch
from compressor.files import MappedFile
from compressor.paths import cache_directory

_AT_ONCE = 4096  # rows that are read together when all are
Value = TypeVar("Value", covariant=True)
Rows = NDArray[np.int64]
Places = slice | NDArray[np.int64] | NDArray[np.bool_]  # as numpy takes them


class ReadByRow(Sequence[Value], ABC):
    """A sequence whose values are made when they are asked for."""

    @abstractmethod
    def read(self, rows: Rows) -> list[Value]:
        """Return the values at `rows`, none of which is negative, in their order."""

    @abstractmethod
    def view(self, places: Places) -> ReadByRow[Value]:
        """Return the values at `places` as a sequence that is read by row too."""

    @overload
    def __getitem__(self, place: int) -> Value: ...
    @overload
    def __getitem__(self, place: Places) -> ReadByRow[Value]: ...
    def __getitem__(self, place: int | Places) -> Value | ReadByRow[Value]:
        """Return the value at a place, or those of a slice or an array of places as a view."""
        if isinstance(place, slice | np.ndarray):
            return self.view(place)
        row = int(place)
        row += len(self) if row < 0 else 0
        if not 0 <= row < len(self):
            raise IndexError(f"{place} is outside the {len(self)} rows")
        [value] = self.read(np.array([row], dtype=np.int64))
        return value

    def __iter__(self) -> Iterator[Value]:
        """Yield all values, which are read some thousands at a time."""
        for start in range(0, len(self), _AT_ONCE):
            yield from self.read(np.arange(start, min(start + _AT_ONCE, len(self))))


class StoredColumn(ReadByRow[Any]):
    """One column of a file of Arrow batches.

    A batch is an array of values or, of JSON, one of texts and one of all other values as JSON,
    where the other is null.
    """

    def __init__(self, file: MappedFile, batches: Sequence[tuple[Any, Any]]) -> None:
        self._file = file
        self._batches = batches  # arrays of pyarrow
        ends = np.cumsum([len(values) for values, _ in batches], dtype=np.int64)
        self._length = int(ends[-1]) if len(ends) else 0
        self._starts = np.append(0, ends[:-1])

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._length

    def read(self, rows: Rows) -> list[Any]:
        """Return the values in `rows`."""
        found: list[Any] = []
        which = np.searchsorted(self._starts, rows, side="right") - 1
        places = rows - self._starts[which]
        ends = np.append(np.flatnonzero(np.diff(which)) + 1, len(rows))
        start = 0
        for end in ends.tolist() if len(rows) else []:
            self._file.count(min(end - start, 64))
            values, others = self._batches[int(which[start])]
            found += _taken(values, places[start:end])
            if others is not None:
                for place, text in enumerate(_taken(others, places[start:end]), start=start):
                    if text is not None:
                        found[place] = json.loads(text)
            start = end
        return found

    def view(self, places: Places) -> ReadByRow[Any]:
        """Return the values at `places`."""
        return MadeByRow((self,), np.arange(len(self))[places], _only)


def _taken(array: Any, places: Rows) -> list[Any]:
    first, count = int(places[0]), len(places)
    if count == 1:
        return [array[first].as_py()]
    if int(places[-1]) - first == count - 1 and (np.diff(places) == 1).all():
        plain: list[Any] = array.slice(first, count).to_pylist()
        return plain
    taken: list[Any] = array.take(_indices(places)).to_pylist()
    return taken


def _indices(places: Rows) -> Any:
    import pyarrow  # here: a shipped artifact reads no rows

    return pyarrow.array(places)


def _only(row: int, *values: Any) -> Any:  # noqa: ARG001
    return values[0]


class MadeByRow(ReadByRow[Value]):
    """Values, such as examples, that are made of the cells of a table's rows when they are read.

    `make` gets the row of the table, and what the columns hold there.
    """

    def __init__(
        self,
        columns: tuple[Sequence[Any], ...],
        rows: Rows,
        make: Callable[..., Value],
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._make = make

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._rows)

    def read(self, rows: Rows) -> list[Value]:
        """Return the examples at `rows`."""
        chosen = self._rows[rows]
        cells = [rows_of(column, chosen) for column in self._columns]
        return list(map(self._make, chosen.tolist(), *cells))

    def view(self, places: Places) -> ReadByRow[Value]:
        """Return the examples at `places`."""
        return MadeByRow(self._columns, self._rows[places], self._make)


class PartsByRow(ReadByRow[Value]):
    """The parts of stored values, one after the other; `apart` gives the `width` parts of each.

    Those of value `i` are at `i * width` and behind it; `places`, `(num_parts,)`, say which of all
    of them these are, all by default.
    """

    def __init__(
        self,
        whole: Sequence[Any],
        apart: Callable[[Any], Sequence[Value]],
        width: int,
        places: Rows | None = None,
    ) -> None:
        self._whole = whole
        self._apart = apart
        self._width = width
        self._places = np.arange(len(whole) * width) if places is None else places

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self._places)

    def read(self, rows: Rows) -> list[Value]:
        """Return the parts at `rows`."""
        which, part = np.divmod(self._places[rows], self._width)
        needed, at = np.unique(which, return_inverse=True)
        values = [self._apart(value) for value in rows_of(self._whole, needed)]
        return [values[place][own] for place, own in zip(at.tolist(), part.tolist(), strict=True)]

    def view(self, places: Places) -> ReadByRow[Value]:
        """Return the parts at `places`."""
        return PartsByRow(self._whole, self._apart, self._width, self._places[places])


def rows_of(values: Sequence[Value], rows: Rows) -> list[Value]:
    """Return the values at `rows`, none of which is negative, read together where they are."""
    if isinstance(values, ReadByRow):
        return values.read(rows)
    return [values[row] for row in rows.tolist()]


def are_stored(*columns: Sequence[Any]) -> bool:
    """Return whether columns lie in a file, so that they should not be read at once."""
    return all(isinstance(column, ReadByRow) for column in columns)


def unnamed_file() -> BinaryIO:
    """Open a file for rows in the cache directory, without a name and gone with the process.

    Raises `EnvironmentMismatch` where none can be made.
    """
    folder = cache_directory() / "rows"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{folder}: rows of a large file cannot be kept there ({error.strerror or error}); "
            f"set COMPRESSOR_CACHE to a folder that can be written"
        ) from error
