"""Labels of rows that have several each, in arrays instead of an object for each row.

A tag for each word or a flag for each label would take some hundred bytes a row as arrays of their
own, most of them for being objects. Here all values lie one after the other; of a large source they
lie in a file, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from compressor.files import MappedFile
from compressor.tasks.stored_rows import Places, ReadByRow, Rows, unnamed_file

_AT_ONCE = 4096  # rows whose values are put together


class LabelLists(ReadByRow[NDArray[Any]]):
    """The labels of rows, an array of `dtype` each, read one after the other or at any places.

    `flat` has shape `(num_values,)`, of any type that holds them all; those of a row are `lengths`
    from `starts` on, both of shape `(num_rows,)`.
    """

    def __init__(
        self,
        flat: NDArray[Any],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int32],
        dtype: DTypeLike,
        file: MappedFile | None = None,
    ) -> None:
        self._flat = flat
        self._starts = starts
        self._lengths = lengths
        self._dtype = np.dtype(dtype)
        self._file = file

    @classmethod
    def of(
        cls,
        rows: Iterable[NDArray[Any]],
        *,
        kept_as: DTypeLike,
        dtype: DTypeLike,
        in_file: bool,
    ) -> Self:
        """Keep the values of all rows, which `kept_as` holds; in a file where it is asked for.

        Raises `EnvironmentMismatch` where no file can be made.
        """
        lengths: list[NDArray[np.int32]] = []
        parts: list[NDArray[Any]] = []
        stream = unnamed_file() if in_file else None
        left = iter(rows)
        while some := list(islice(left, _AT_ONCE)):
            lengths.append(np.fromiter(map(len, some), dtype=np.int32, count=len(some)))
            values = np.concatenate(some).astype(kept_as)
            if stream is None:
                parts.append(values)
            else:
                stream.write(values.tobytes())
        every = np.concatenate([np.zeros(0, np.int32), *lengths])
        starts = np.cumsum(every, dtype=np.int64)
        starts -= every
        file = None
        flat = np.concatenate([np.zeros(0, kept_as), *parts])
        if stream is not None:
            stream.flush()
            if stream.tell() > 0:  # no file can be mapped that is empty
                file = MappedFile(stream)
                flat = np.frombuffer(file.content, dtype=kept_as)
            stream.close()
        return cls(flat, starts, every, dtype, file)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._starts)

    def read(self, rows: Rows) -> list[NDArray[Any]]:
        """Return the labels in `rows`."""
        if self._file is not None:
            self._file.count(len(rows))
        starts = self._starts[rows]
        ends = starts + self._lengths[rows]
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return [self._flat[start:end].astype(self._dtype) for start, end in spans]

    def view(self, places: Places) -> LabelLists:
        """Return the labels at `places`."""
        starts, lengths = self._starts[places], self._lengths[places]
        return LabelLists(self._flat, starts, lengths, self._dtype, self._file)


def joined(labels: Iterable[NDArray[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """Return the labels of all rows one after the other, without an object for each at once."""
    left = iter(labels)
    parts = [np.zeros(0, dtype)]
    while some := list(islice(left, _AT_ONCE)):
        parts.append(np.concatenate(some).astype(dtype))
    return np.concatenate(parts)
