"""NumPy archives as rows: each array is a column, and its first axis the rows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.table import Table, choose_columns
from compressor.words import counted


def array_names(path: Path) -> list[str]:
    """Return the columns of an archive; raises `EnvironmentMismatch` for a damaged one."""
    with _opened(path) as archive:
        return list(archive.files)


def count_rows(path: Path) -> int:
    """Return the number of rows of an archive; raises as `read_arrays`."""
    with _opened(path) as archive:
        return _rows(path, archive, archive.files)


def read_arrays(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """Return the arrays of an archive as columns; those of images are views of one array.

    Raises `EnvironmentMismatch` for a damaged file and one that holds Python objects, which could
    run code, and `RecipeError` for arrays of unequal length and columns that there are not.
    """
    with _opened(path) as archive:
        chosen = choose_columns(str(path), list(archive.files), required, optional)
        _rows(path, archive, chosen)
        arrays = {name: archive[name] for name in chosen}
    columns = {
        name: array.tolist() if array.ndim == 1 else list(array) for name, array in arrays.items()
    }
    return Table(str(path), columns, directory=path.parent)


def _rows(path: Path, archive: NpzFile, names: Sequence[str]) -> int:
    """Return how many rows the arrays have; raises `RecipeError` where that is not one number."""
    shapes = {name: archive[name].shape for name in names}
    single = [name for name, shape in shapes.items() if not shape]
    if single:
        raise RecipeError(
            f"{path}: array {single[0]} is a single value; its first axis must be the rows"
        )
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {counted(length, 'row')}" for name, length in lengths.items())
        raise RecipeError(f"{path}: arrays must have one number of rows, and {told}")
    return next(iter(lengths.values()), 0)


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        with path.open("rb") as stream:  # numpy leaves a damaged file open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise EnvironmentMismatch(
                    f"{path}: holds one array without a name; write it with numpy.savez and a name "
                    f"for each column"
                )
            with archive:
                yield archive
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EnvironmentMismatch(
            f"{path}: cannot be read as an archive of arrays ({error}); write it with numpy.savez, "
            f"without Python objects"
        ) from error
