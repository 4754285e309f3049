"""Places on disk: settings that name one, relative to the recipe, and the cache.

A recipe must mean the same from every working directory, so `load_recipe` passes its folder as the
validation context `{"base_dir": ...}`. Without a context (settings built in Python) a relative path
stays relative to the working directory.
"""

from __future__ import annotations

import os
import os.path
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints, ValidationInfo

BUILTIN = "builtin:"  # a name that the package itself knows how to make
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")  # what looks like one; the Hub knows more


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
    return Path(os.path.normpath(base_dir.resolve() / expanded))


def resolve_name(name: str, base_dir: Path | None) -> str:
    """Return `name` as it is when it is a Hub id or a builtin, otherwise as a resolved path.

    A directory that exists wins over a Hub id of the same spelling.
    """
    if name.startswith(BUILTIN):
        return name
    path = resolve_path(Path(name), base_dir)
    if path.exists() or not HUB_ID.fullmatch(name):
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
