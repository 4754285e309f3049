"""NumPy archives are read as columns, and nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data.check import most_rows
from compressor.data.readers import read_header, read_table
from compressor.data.settings import SplitSource
from compressor.errors import EnvironmentMismatch, RecipeError


def archive(folder: Path, **arrays: Any) -> SplitSource:
    np.savez(folder / "rows.npz", **arrays)
    return SplitSource(path=folder / "rows.npz")


def test_arrays_are_columns_and_their_first_axis_the_rows(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    source = archive(tmp_path, image=images, label=np.array(["cat", "dog"]), id=np.arange(2))
    assert read_header(source) == ["image", "label", "id"]
    assert most_rows(source) == 2
    table = read_table(source, ("image",), ("label",))
    assert table.columns["label"] == ["cat", "dog"]
    assert np.array_equal(table.columns["image"], images)


def test_arrays_of_unequal_length_are_refused(tmp_path: Path) -> None:
    source = archive(tmp_path, image=np.zeros((2, 4, 4)), label=np.zeros(3))
    with pytest.raises(RecipeError, match="image has 2 rows, label has 3 rows"):
        read_table(source, ("image", "label"), ())


def test_a_single_value_is_no_column(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="array label is a single value"):
        read_table(archive(tmp_path, label=np.array(3)), ("label",), ())


def test_python_objects_are_never_read(tmp_path: Path) -> None:
    source = archive(tmp_path, image=np.array([{"a": 1}], dtype=object))
    with pytest.raises(EnvironmentMismatch, match="without Python objects"):
        read_table(source, ("image",), ())


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 cut"])
def test_a_damaged_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(EnvironmentMismatch, match="cannot be read as an archive of arrays"):
        read_header(SplitSource(path=tmp_path / "rows.npz"))


def test_an_array_without_a_name_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros(3))
    (tmp_path / "rows.npy").rename(tmp_path / "rows.npz")
    with pytest.raises(EnvironmentMismatch, match="one array without a name"):
        read_header(SplitSource(path=tmp_path / "rows.npz"))
