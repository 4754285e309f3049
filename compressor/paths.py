"""Places on disk: settings that name one, what may be read there, and the cache.

A recipe must mean the same from every working directory, so `load_recipe` passes its folder as the
validation context `{"base_dir": ...}`. Without a context (settings built in Python) a relative path
stays relative to the working directory.

Whatever a user names is looked at before it is opened: opening a named pipe waits for ever, and
reading a device never ends. `unreadable` and its siblings are the one place that looks; they never
raise, so that the caller says in its own words which key or argument is wrong.
"""

from __future__ import annotations

import os
import os.path
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints, ValidationInfo

from compressor.runtime.files import ABSENT as ABSENT
from compressor.runtime.files import LARGEST_JSON as LARGEST_JSON
from compressor.runtime.files import reason_of, special_kind, status_of
from compressor.runtime.files import unreadable as unreadable

BUILTIN = "builtin:"  # a name that the package itself knows how to make
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")  # what looks like one; the Hub knows more

LARGEST_TOKENIZER = 1 << 29  # bytes of the largest file that is read beside weights and rows


def no_folder(path: Path) -> str | None:
    """Say in a few words why `path` is no directory that can be listed, None when it is one."""
    found = status_of(path)
    if isinstance(found, str):
        return found
    if not stat.S_ISDIR(found.st_mode):
        return f"{special_kind(found) or 'is a file'}, not a directory"
    try:
        os.scandir(path).close()
    except OSError as error:
        return reason_of(error, path)
    return None


def unwritable(path: Path) -> str | None:
    """Say in a few words why no file can be written to `path`, as far as its name can tell.

    A regular file may be there, or nothing.
    """
    found = status_of(path)
    if isinstance(found, str):
        return None if found == ABSENT else found
    if stat.S_ISDIR(found.st_mode):
        return "is a directory, not a file"
    kind = special_kind(found)
    return None if kind is None else f"{kind}, not a file"


def exists(path: Path) -> bool:
    """Return whether anything lies at `path`; a name that no file can have is none."""
    return not isinstance(status_of(path), str)


def is_folder(path: Path) -> bool:
    """Return whether `path` is a directory; False for a name that no file can have."""
    found = status_of(path)
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
        status = status_of(here)
        if isinstance(status, str) or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        if no_folder(here) is not None:
            continue
        for entry in sorted(here.iterdir()):
            found = status_of(entry)
            if isinstance(found, str):
                continue
            if (kind := special_kind(found)) is not None:
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
