"""Files as a whole: their SHA-256, and writing that leaves the old file or the new one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
