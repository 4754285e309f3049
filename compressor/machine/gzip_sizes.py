"""Sizes of files after gzip, each content measured once: in a run, and on a machine.

A large file takes seconds, and the untouched model is the same in every run that begins with it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import zlib
from pathlib import Path

from compressor.files import remove_unused, sha256
from compressor.paths import cache_directory

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes
_GZIP = zlib.MAX_WBITS | 16  # 16 asks for gzip's framing
_LARGE = 1 << 22  # bytes, from which on a size is kept for other runs
_MEASURED: dict[str, int] = {}  # bytes after gzip by SHA-256, of a few files in a run


def gzipped_bytes(path: Path) -> int:
    """Return the size of a file after gzip at level 6, without storing the result.

    Only there the zeros among weights show. A content that was measured before, such as that of a
    graph which then ships, is known by its SHA-256; of large files also from earlier runs.
    """
    content = sha256(path)
    if content not in _MEASURED:
        is_large = path.stat().st_size >= _LARGE
        known = _read(content) if is_large else None
        _MEASURED[content] = _gzipped_bytes(path) if known is None else known
        if is_large and known is None:
            _write(content, _MEASURED[content])
    return _MEASURED[content]


def _gzipped_bytes(path: Path) -> int:
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    total = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())


def _place(content: str) -> Path:
    return cache_directory() / "gzip" / f"{content}-{zlib.ZLIB_RUNTIME_VERSION}"


def _read(content: str) -> int | None:
    """Return the size that an earlier run kept; a file that holds none is as good as no file."""
    path = _place(content)
    try:
        found = int(path.read_text(encoding="ascii"))
        os.utime(path)
    except (OSError, ValueError):
        return None
    return found if found > 0 else None


def _write(content: str, size: int) -> None:
    path = _place(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unused(path.parent)
        handle, unfinished = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(str(size))
        Path(unfinished).replace(path)
    except OSError as error:  # the next run measures it again, which is all that is lost
        logger.info("%s: the size cannot be kept there (%s)", path.parent, error)
