"""Places on disk: settings that name one, what may be read there, and the cache.

A recipe must mean the same from every working directory, so `load_recipe` passes its folder as the
validation context `{"base_dir": ...}`. Without a context (settings built in Python) a relative path
stays relative to the working directory.

Whatever a user names is looked at before it is opened: opening a named pipe waits for ever, and
reading a device never ends. `unreadable` and its siblings are the one place that looks; they never
raise, so that the caller says in its own words which key or argument is wrong.
"""

from __future__ import annotations

import errno
import os
import os.path
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints, ValidationInfo

BUILTIN = "builtin:"  # a name that the package itself knows how to make
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")  # what looks like one; the Hub knows more

LARGEST_JSON = 1 << 26  # bytes of a file of settings or of a report, which is parsed as a whole
LARGEST_TOKENIZER = 1 << 29  # bytes of the largest file that is read beside weights and rows

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
    found = _status(path)
    if isinstance(found, str):
        return found
    if stat.S_ISDIR(found.st_mode):
        return "is a directory, not a file"
    if (kind := _special(found)) is not None:
        return f"{kind}, not a file"
    if largest is not None and found.st_size > largest:
        return f"holds {found.st_size} bytes, more than the {largest} that are read at most"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return _reason(error, path)
    return None


def no_folder(path: Path) -> str | None:
    """Say in a few words why `path` is no directory that can be listed, None when it is one."""
    found = _status(path)
    if isinstance(found, str):
        return found
    if not stat.S_ISDIR(found.st_mode):
        return f"{_special(found) or 'is a file'}, not a directory"
    try:
        os.scandir(path).close()
    except OSError as error:
        return _reason(error, path)
    return None


def unwritable(path: Path) -> str | None:
    """Say in a few words why no file can be written to `path`, as far as its name can tell.

    A regular file may be there, or nothing.
    """
    found = _status(path)
    if isinstance(found, str):
        return None if found == ABSENT else found
    if stat.S_ISDIR(found.st_mode):
        return "is a directory, not a file"
    kind = _special(found)
    return None if kind is None else f"{kind}, not a file"


def exists(path: Path) -> bool:
    """Return whether anything lies at `path`; a name that no file can have is none."""
    return not isinstance(_status(path), str)


def is_folder(path: Path) -> bool:
    """Return whether `path` is a directory; False for a name that no file can have."""
    found = _status(path)
    return not isinstance(found, str) and stat.S_ISDIR(found.st_mode)


def special_files(folder: Path, *, depth: int | None = None) -> Iterator[str]:
    """Yield `PATH is a device` for every entry of a directory that is no file and no directory.

    `depth` is how many levels below `folder` are looked at, all when left out. Links that lead
    nowhere are passed over, and no directory is entered twice.
    """
    seen: set[tuple[int, int]] = set()
    folders = [(folder, 1)]
    while folders:
        here, level = folders.pop()
        status = _status(here)
        if isinstance(status, str) or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if no_folder(here) is not None:
            continue
        for entry in sorted(here.iterdir()):
            found = _status(entry)
            if isinstance(found, str):
                continue
            if (kind := _special(found)) is not None:
                yield f"{entry} {kind}"
            if stat.S_ISDIR(found.st_mode) and (depth is None or level < depth):
                folders.append((entry, level + 1))


def require_plain_files(folder: Path) -> None:
    """Raise `OSError` when `folder` is none, or holds a pipe or a device."""
    reason = no_folder(folder)
    if reason is not None:
        raise OSError(f"{folder} {reason}")
    if (special := next(special_files(folder, depth=1), None)) is not None:
        raise OSError(f"{special}, and reading it might never end; remove it")


def _status(path: Path) -> os.stat_result | str:
    """Return what lies at `path`, or in a few words why nothing can."""
    try:
        return path.stat()
    except ValueError:  # also of text that cannot be encoded as a file name
        why = "a NUL character" if "\0" in str(path) else "half of a surrogate pair"
        return f"holds {why}, which no path can"
    except OSError as error:
        return _reason(error, path)


def _special(found: os.stat_result) -> str | None:
    return next((words for is_kind, words in _SPECIAL if is_kind(found.st_mode)), None)


def _reason(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT and path.is_symlink():
        return "is a symbolic link to something that does not exist"
    return _REASONS.get(error.errno or 0, f"cannot be opened ({error.strerror or error})")


def cache_directory() -> Path:
    """Return where things made once are kept: `COMPRESSOR_CACHE`, or the user's cache."""
    own = os.environ.get("COMPRESSOR_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compressor"


def resolve_path(path: Path, base_dir: Path | None) -> Path:
    """Expand `~` and put a relative `path` under `base_dir`.

    Raises `ValueError` when the home directory is not known.
    """
    try:
        expanded = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"cannot expand '~' in {path}: {error}") from error
    if base_dir is None or expanded.is_absolute():
        return expanded
    # The base has no symbolic links left, so dropping the leading `..` names the same place.
    return Path(os.path.normpath(Path(os.path.realpath(base_dir)) / expanded))


def resolve_name(name: str, base_dir: Path | None) -> str:
    """Return `name` as it is when it is a Hub id or a builtin, otherwise as a resolved path.

    A directory that exists wins over a Hub id of the same spelling.
    """
    if name.startswith(BUILTIN):
        return name
    path = resolve_path(Path(name), base_dir)
    if exists(path) or not HUB_ID.fullmatch(name):
        return str(path)
    return name


def _base_dir(info: ValidationInfo) -> Path | None:
    return info.context.get("base_dir") if isinstance(info.context, dict) else None


def _path(path: Path, info: ValidationInfo) -> Path:
    return resolve_path(path, _base_dir(info))


def _name(name: str, info: ValidationInfo) -> str:
    return resolve_name(name, _base_dir(info))


LocalPath = Annotated[Path, AfterValidator(_path)]
# A local directory, a Hub id such as org/name, or builtin:NAME.
HubName = Annotated[str, StringConstraints(min_length=1), AfterValidator(_name)]
