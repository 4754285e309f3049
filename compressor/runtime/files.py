"""Files as they lie on a disk: whether one can be read, and its SHA-256."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import EnvironmentMismatch

LARGEST_JSON = 1 << 26  # bytes of a file of settings or of a report, which is parsed as a whole
ABSENT = "does not exist"
_SPECIAL: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "is a named pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)
_REASONS = {
    errno.ENOENT: ABSENT,
    errno.ENOTDIR: "does not exist, because a part of its path is a file",
    errno.ELOOP: "is a symbolic link that leads back to itself",
    errno.ENAMETOOLONG: "is a longer path than this system has",
    errno.EACCES: "cannot be opened (permission denied)",
    errno.EPERM: "cannot be opened (not permitted)",
}


def unreadable(path: Path, *, largest: int | None = None) -> str | None:
    """Say in a few words why `path` is no regular file that can be read, None when it is one.

    With `largest`, neither is a file of more bytes.
    """
    found = status_of(path)
    if isinstance(found, str):
        return found
    if stat.S_ISDIR(found.st_mode):
        return "is a directory, not a file"
    if (kind := special_kind(found)) is not None:
        return f"{kind}, not a file"
    if largest is not None and found.st_size > largest:
        return f"holds {found.st_size} bytes, more than the {largest} that are read at most"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return reason_of(error, path)
    return None


def status_of(path: Path) -> os.stat_result | str:
    """Return what lies at `path`, or in a few words why nothing can."""
    try:
        return path.stat()
    except ValueError:  # also of text that cannot be encoded as a file name
        why = "a NUL character" if "\0" in str(path) else "half of a surrogate pair"
        return f"holds {why}, which no path can"
    except OSError as error:
        return reason_of(error, path)


def special_kind(found: os.stat_result) -> str | None:
    """Return what a path is that is neither file nor folder, None where it is one of both."""
    return next((words for is_kind, words in _SPECIAL if is_kind(found.st_mode)), None)


def reason_of(error: OSError, path: Path) -> str:
    """Return in a few words why a path cannot be opened."""
    if error.errno == errno.ENOENT and path.is_symlink():
        return "is a symbolic link to something that does not exist"
    return _REASONS.get(error.errno or 0, f"cannot be opened ({error.strerror or error})")


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of an artifact.

    Raises `EnvironmentMismatch` where there is none.
    """
    try:
        if (reason := unreadable(path, largest=LARGEST_JSON)) is not None:
            raise ValueError(f"it {reason}")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(
            f"{path}: cannot be read ({error}); copy the artifact again"
        ) from error
    return content


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def facts_sha256(facts: object) -> str:
    """Return the SHA-256 of plain JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("ascii")).hexdigest()
