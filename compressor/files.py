"""Files as a whole: SHA-256, writing that leaves the old file or the new, reading of large ones
without keeping what was read.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from compressor.runtime.files import facts_sha256 as facts_sha256
from compressor.runtime.files import sha256 as sha256

_KEPT_DAYS = 30
_SECONDS_OF_A_DAY = 24 * 60 * 60
_READS_KEPT = 256  # each may bring 64 KiB of a file into memory


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


def remove_unused(place: Path) -> None:
    """Remove what lies in a folder of a cache and was not touched for a month, as far as it can be.

    Whoever reads an entry touches it (`os.utime`).
    """
    oldest = time.time() - _KEPT_DAYS * _SECONDS_OF_A_DAY
    for entry in place.iterdir() if place.is_dir() else ():
        try:
            if entry.stat().st_mtime >= oldest:
                continue
        except OSError:
            continue  # another process removed it
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


class MappedFile:
    """A file that is mapped into memory, and leaves it again while it is read.

    What was read of a map counts as memory of the process until the system needs it for others. So
    that memory does not grow with the file, it is given back after so many reads; the system keeps
    it in its own cache, and reading it again costs little. Where the system cannot be told so, as
    on Windows, the map is a plain one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Map what `stream`, which may be closed then, holds; raises `ValueError` for nothing."""
        self.content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._reads = 0

    def count(self, reads: int = 1) -> None:
        """Note that so many places are about to be read, each of some kilobytes."""
        self._reads += reads
        if self._reads >= _READS_KEPT:
            self.release()

    def release(self) -> None:
        """Give back the memory of all that was read; views of it stay valid."""
        self._reads = 0
        if hasattr(self.content, "madvise"):
            self.content.madvise(mmap.MADV_DONTNEED)
