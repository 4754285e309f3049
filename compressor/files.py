"""Files as a whole: SHA-256, size under gzip, and writing that leaves the old file or the new."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.runtime.files import facts_sha256 as facts_sha256
from compressor.runtime.files import sha256 as sha256

_CHUNK = 1 << 20  # bytes
_GZIP = zlib.MAX_WBITS | 16  # 16 asks for gzip's framing


def gzipped_bytes(path: Path) -> int:
    """Return the size of a file after gzip at level 6, without storing the result.

    Only there the zeros among weights show.
    """
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    total = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Give a path to write to, whose content takes the place of `file` at the end, on the disk too.

    A kill leaves the old file or the new one, and a rest that the next writing replaces; what is
    raised leaves the old one and no rest. One process may write a file at a time.
    """
    temporary = file.with_name(f".{file.name}.partial")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())  # the rename must not reach the disk before the content
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(file: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with whole_file(file) as temporary:
        # A lone surrogate, which UTF-8 cannot carry, is spelled as its JSON escape.
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
