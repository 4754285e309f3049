"""Rows of large sources in a file of Arrow batches, so that memory does not grow with them.

The file has no name and is gone with the process, however it ends. It lies in the cache directory,
which is on a disk, where the system's own temporary files may be in memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from compressor.files import MappedFile
from compressor.tasks.stored_rows import StoredColumn, unnamed_file

KEPT_BYTES = 1 << 23  # of a source, up to which its rows are kept in memory as Python values
ROWS_AT_ONCE = 4096  # of a batch
_TEXT_AT_ONCE = 1 << 26  # characters of a batch, about
_FEW_LINES = 1 << 16


class Rows(Protocol):
    """Columns that are filled row by row."""

    def add(self, values: Sequence[Any]) -> None:
        """Take one value for each column."""

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns by name, when all rows are there."""


class ListedRows:
    """Columns in memory."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in names}
        self._targets = list(self._columns.values())

    def add(self, values: Sequence[Any]) -> None:
        """Take one value for each column."""
        for target, value in zip(self._targets, values, strict=True):
            target.append(value)

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns by name."""
        return dict(self._columns)


class RowFile:
    """Columns of texts in a file; with `any_values` of all that JSON can hold."""

    def __init__(self, names: Sequence[str], *, any_values: bool = False) -> None:
        import pyarrow

        self._names = list(names)
        self._any_values = any_values
        self._waiting: list[list[Any]] = [[] for _ in self._names]
        self._characters = 0
        kinds = [pyarrow.string()] * (len(self._names) * (1 + any_values))
        self._file = ArrowFile(kinds)

    def add(self, values: Sequence[Any]) -> None:
        """Take one value for each column."""
        for target, value in zip(self._waiting, values, strict=True):
            target.append(value)
            self._characters += len(value) if isinstance(value, str) else 0
        if len(self._waiting[0]) >= ROWS_AT_ONCE or self._characters >= _TEXT_AT_ONCE:
            self._write()

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns by name."""
        if self._waiting[0]:
            self._write()
        found = self._file.columns()
        if not self._any_values:
            return {
                name: StoredColumn(self._file.mapped, [(item, None) for item in batches])
                for name, batches in zip(self._names, found, strict=True)
            }
        return {
            name: StoredColumn(self._file.mapped, list(zip(texts, others, strict=True)))
            for name, texts, others in zip(self._names, found[::2], found[1::2], strict=True)
        }

    def _write(self) -> None:
        import pyarrow

        arrays = []
        for values in self._waiting:
            if not self._any_values:
                arrays.append(pyarrow.array(values, type=pyarrow.string()))
                continue
            are_texts = [_is_plain_text(value) for value in values]
            pairs = list(zip(values, are_texts, strict=True))
            texts = [value if is_text else None for value, is_text in pairs]
            others = [None if is_text else json.dumps(value) for value, is_text in pairs]
            arrays += [pyarrow.array(item, type=pyarrow.string()) for item in (texts, others)]
        self._file.write(arrays)
        self._waiting = [[] for _ in self._names]
        self._characters = 0


class ArrowFile:
    """A file without a name that holds batches of columns of these types of pyarrow."""

    def __init__(self, kinds: Sequence[Any]) -> None:
        import pyarrow

        self._stream = unnamed_file()
        self._schema = pyarrow.schema([(str(place), kind) for place, kind in enumerate(kinds)])
        self._writer = pyarrow.ipc.new_file(self._stream, self._schema)

    def write(self, arrays: Sequence[Any]) -> None:
        """Write one batch."""
        import pyarrow

        self._writer.write_batch(pyarrow.record_batch(list(arrays), schema=self._schema))

    def columns(self) -> list[list[Any]]:
        """Return for each column its arrays, which are read from the file as they are used."""
        import pyarrow

        self._writer.close()
        self._stream.flush()
        self.mapped = MappedFile(self._stream)
        self._stream.close()
        reader = pyarrow.ipc.open_file(pyarrow.py_buffer(self.mapped.content))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self.mapped.release()
        return [[batch.column(place) for batch in batches] for place in range(len(self._schema))]


def stored_arrays(names: Sequence[str], kinds: Mapping[str, Any], batches: Any) -> dict[str, Any]:
    """Return columns of pyarrow batches, which are yielded as arrays by name, from a file."""
    file = ArrowFile([kinds[name] for name in names])
    for arrays in batches:
        file.write([arrays[name] for name in names])
    found = file.columns()
    return {
        name: StoredColumn(file.mapped, [(item, None) for item in arrays])
        for name, arrays in zip(names, found, strict=True)
    }


def is_large(num_bytes: int) -> bool:
    """Return whether a source of so many bytes is not kept in memory."""
    return num_bytes > KEPT_BYTES


def rows_for(num_bytes: int, names: Sequence[str], *, any_values: bool = False) -> Rows:
    """Return what takes the rows of a source of so many bytes: in memory, or in a file."""
    if not is_large(num_bytes) or not names:
        return ListedRows(names)
    return RowFile(names, any_values=any_values)


class Lines:
    """The first line of each row, in little memory."""

    def __init__(self) -> None:
        self._lines = array("q")

    def __len__(self) -> int:
        """Return how many were added."""
        return len(self._lines)

    def add(self, line: int) -> None:
        """Take the line of the next row."""
        self._lines.append(line)

    def all(self) -> Sequence[int]:
        """Return the lines; of many a range where each row takes one."""
        count = len(self._lines)
        if count <= _FEW_LINES:
            return self._lines.tolist()
        if self._lines[-1] - self._lines[0] == count - 1:
            return range(self._lines[0], self._lines[-1] + 1)
        return self._lines


def _is_plain_text(value: Any) -> bool:
    """Return whether a value is a text that UTF-8 can carry."""
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
