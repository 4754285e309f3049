"""Tells files of other kinds, such as gzip, from text before their bytes are read as rows."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError

# How files begin that are no text, what they are, and what to do with them.
_UNPACK = "unpack it and give the file inside"
_UTF_8 = "convert it to UTF-8"
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"PK\x03\x04", "a zip file, or a spreadsheet", "unpack it, or save it as csv"),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"PAR1", "a parquet file", "set `format: parquet`"),
    (b"ARROW1", "an Arrow file", "write it as parquet"),
    (b"SQLite format 3\0", "a database", "write its rows as csv"),
    (b"\x89PNG", "a picture", "give the file of the rows"),
    (b"\xff\xfe", "UTF-16 text", _UTF_8),
    (b"\xfe\xff", "UTF-16 text", _UTF_8),
    (b"\0\0\xfe\xff", "UTF-32 text", _UTF_8),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the rows", "run `git lfs pull`"),
)
_LONGEST = max(len(beginning) for beginning, _, _ in _BEGINNINGS)


def refuse_other_kinds(path: Path) -> None:
    """Raise `RecipeError` for a file that is no UTF-8 text, as its first bytes tell.

    Raises `EnvironmentMismatch` when it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_LONGEST)
    except OSError as error:
        raise EnvironmentMismatch(f"{path}: cannot be read ({error.strerror or error})") from error
    for beginning, kind, way in _BEGINNINGS:
        if start.startswith(beginning):
            raise RecipeError(f"{path}: is {kind}, no UTF-8 text of rows; {way}")
