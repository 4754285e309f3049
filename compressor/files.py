"""Files as a whole: SHA-256, size under gzip, and writing that leaves the old file or the new."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

_CHUNK = 1 << 20  # bytes
_GZIP = zlib.MAX_WBITS | 16  # 16 asks for gzip's framing


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def write_whole(file: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    # A lone surrogate, which UTF-8 cannot carry, is spelled as its JSON escape.
    content = text.encode("utf-8", "backslashreplace")
    temporary = file.with_name(f".{file.name}.partial")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
