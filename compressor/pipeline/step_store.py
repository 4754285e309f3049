"""The finished steps of a run on disk, so that a stopped run goes on.

A step is known by its key, a hash of everything its result depends on; what it depends on in turn
is known by its content, not by how it was made. So a recipe that is run again, or an edited one,
starts at the first step whose inputs changed, and a step that gives what it gave before does not
make the ones behind it start anew.

A step appears whole or not at all: it is written under another name, forced to disk and renamed.
It is read back only when every byte is what was written and nothing was added; a damaged one is
dropped and done again. Its files are JSON, safetensors and ONNX: nothing in them can run code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from compressor.errors import EnvironmentMismatch
from compressor.files import sha256
from compressor.stored_types import Arrays, Quantity, problems, read_facts, to_plain

logger = logging.getLogger(__name__)

Fact = TypeVar("Fact")

_RECORD = "step.json"
_ARRAYS = "arrays.safetensors"
PARTIAL = ".partial-"  # how the name of a step begins that is being stored
# What reading an entry raises that somebody edited, truncated or removed meanwhile.
DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError)


@dataclass(frozen=True)
class _Record:
    """The content of a step's `step.json`, but for the hash over it."""

    version: Literal[1]  # of the layout of a stored step
    name: str
    depends_on: Mapping[str, object]
    files: Mapping[str, str]
    facts: Mapping[str, object]
    seconds: Quantity


@dataclass(frozen=True)
class Step:
    """A finished step: its files lie in `folder`, its facts are read with `fact`.

    `files` maps the path of each file, relative to `folder`, to its SHA-256; `seconds` is what the
    step took when it was really done, `reused` whether that was in an earlier run.
    """

    name: str
    key: str
    folder: Path
    files: Mapping[str, str]
    facts: Mapping[str, Any] = field(repr=False)
    arrays: Arrays = field(repr=False)
    seconds: float
    reused: bool

    @property
    def digest(self) -> str:
        """Return one SHA-256 over the names and contents of the files."""
        return key_of(dict(self.files))

    def fact(self, name: str, kind: type[Fact]) -> Fact:
        """Return the fact `name`, a `kind` such as `Score`.

        Raises `EnvironmentMismatch` for another one, which somebody else has written.
        """
        try:
            return read_facts(kind, self.facts[name], self.arrays)
        except (KeyError, ValidationError) as error:
            reason = "; ".join(problems(error)) if isinstance(error, ValidationError) else error
            raise EnvironmentMismatch(
                f"{self.folder}: the stored step '{self.name}' has no '{name}' that this version "
                f"of compressor wrote ({reason}); remove that folder and run again"
            ) from error


@dataclass
class StepStore:
    """The steps of one output directory, and the scratch space of those that are not finished.

    `damaged` says which entries were dropped, one sentence each; `made` holds the keys that this
    run stored, `used` those and the ones it looked up and found.
    """

    path: Path
    scratch: Path
    made: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Now and not when all is done: steps move from one to the other by renaming.
        for place in (self.path, self.scratch):
            if place.is_symlink():
                raise EnvironmentMismatch(
                    f"{place}: is a link, and finished steps have to lie in the output directory "
                    f"itself; remove the link, or give an --output on a disk with free space"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a run left that was killed while it stored a step."""
        for left in self.path.glob(f"{PARTIAL}*"):
            remove(left)

    @property
    def private(self) -> Path:
        """Return scratch space that no other run shares."""
        return self.scratch

    def work_dir(self, key: str) -> Path:
        """Return the scratch folder of an unfinished step, with what an earlier attempt left."""
        folder = self.scratch / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def find(self, name: str, key: str) -> Step | None:
        """Return the stored step of this key, after every byte of it was checked."""
        folder = self.path / key
        if not os.path.lexists(folder):
            return None
        try:
            step = read_step(name, key, folder)
        except DAMAGE as error:
            told = f"the stored step '{name}' was damaged ({error}) and done again"
            if told not in self.damaged:
                self.damaged.append(told)
                logger.warning("%s: %s", folder, told)
            self._drop_damaged(folder)
            return None
        self.used.add(key)
        return dataclasses.replace(step, reused=key not in self.made)

    def _drop_damaged(self, folder: Path) -> None:
        """Make room for a step that is done again."""
        remove(folder)

    def keep(
        self,
        name: str,
        key: str,
        *,
        depends_on: Mapping[str, Any],
        facts: Mapping[str, Any],
        seconds: float,
        files: Path | None = None,
    ) -> Step:
        """Store a step that was just done, remove its scratch folder, and return it.

        `files` is a folder on the same file system; everything in it moves into the store.
        `depends_on` is what the key was made of, kept for people who wonder why a step ran again.
        """
        partial = self.path / f"{PARTIAL}{key}"
        if files is None:
            partial.mkdir()
        else:
            files.rename(partial)
        arrays: Arrays = {}
        plain = to_plain(dict(facts), arrays)
        if arrays:
            save_file(arrays, partial / _ARRAYS)
        hashes = {path.relative_to(partial).as_posix(): sha256(path) for path in _files(partial)}
        record = {
            "version": 1,
            "name": name,
            "depends_on": dict(depends_on),
            "files": hashes,
            "facts": plain,
            "seconds": seconds,
        }
        text = json.dumps({**record, "sha256": key_of(record)}, indent=1)
        (partial / _RECORD).write_text(text, encoding="utf-8")
        _force_to_disk(partial)
        folder = partial.rename(self.path / key)
        _sync(self.path)
        if (self.scratch / key).is_dir():
            remove(self.scratch / key)
        self.made.add(key)
        self.used.add(key)
        files_alone = {path: digest for path, digest in hashes.items() if path != _ARRAYS}
        return Step(name, key, folder, files_alone, plain, arrays, seconds, reused=False)

    def make(
        self,
        name: str,
        key: str,
        depends_on: Mapping[str, Any],
        work: Callable[[Path, Path], dict[str, Any]],
    ) -> Step:
        """Do a step that is not stored, and store it.

        `work` gets a scratch folder, which may hold what a killed run left, and a path for the
        files of the result; it returns the facts to keep.
        """
        scratch = self.work_dir(key)
        result = scratch / "result"
        if result.exists():
            shutil.rmtree(result)  # half of one, from a run that was killed
        started = time.monotonic()
        facts = work(scratch, result)
        return self.keep(
            name,
            key,
            depends_on=depends_on,
            facts=facts,
            seconds=time.monotonic() - started,
            files=result if result.exists() else None,
        )

    def remove_unused(self) -> None:
        """Remove what this run did not use: steps of earlier recipes, and scratch folders."""
        for folder in self.path.iterdir():
            if folder.name not in self.used and folder.is_dir():  # other files are somebody else's
                remove(folder)
        remove(self.scratch)

    def close(self) -> None:
        """Let go of what a run holds while it uses the store."""


def key_of(depends_on: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain JSON data, whatever the order of its keys."""
    text = json.dumps(depends_on, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no links.

    A stored step is checked whenever it is read, so somebody who changes the file through its
    other name costs time and never a wrong result.
    """
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Put the files of a stored step, or of a folder in one, into `target` without taking room."""
    for path in _files(source):
        if path.name not in (_RECORD, _ARRAYS):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, place)


def read_step(name: str, key: str, folder: Path) -> Step:
    """Return a stored step after every byte of it was checked; raises one of `DAMAGE`."""
    if folder.is_symlink():
        raise ValueError("it is a link")
    entries = _entries(folder)  # before anything is opened
    content = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("sha256") != key_of(content):
        raise ValueError(f"{_RECORD} is not what was written")
    try:
        record = read_facts(_Record, content)
    except ValidationError as error:
        raise ValueError(f"{_RECORD} is not what was written") from error
    # What was added would be shown, shipped or loaded with the rest.
    present = {path.relative_to(folder).as_posix() for path in entries}
    if differing := sorted(present ^ {*record.files, _RECORD}):
        raise ValueError(f"{differing[0]} was added or is missing")
    for path, digest in record.files.items():
        if sha256(folder / path) != digest:
            raise ValueError(f"{path} is not what was written")
    files = {path: digest for path, digest in record.files.items() if path != _ARRAYS}
    arrays = load_file(folder / _ARRAYS) if _ARRAYS in record.files else {}
    return Step(name, key, folder, files, record.facts, arrays, record.seconds, reused=True)


def _entries(folder: Path) -> list[Path]:
    """Return every file in a folder; raises for links, pipes and devices, and opens none."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if other := [path.name for path in found if path.is_symlink() or not path.is_file()]:
        raise ValueError(f"{other[0]} is a link, a pipe or a device")
    return found


def remove(place: Path) -> None:
    """Remove a folder, a file or a link, or what is left of it when somebody else is at it too."""
    if place.is_symlink() or place.is_file():
        place.unlink(missing_ok=True)
    elif place.exists():
        shutil.rmtree(place, onerror=_unless_gone)


def _unless_gone(function: Any, path: Any, raised: Any) -> None:  # noqa: ARG001 -- rmtree's
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _force_to_disk(folder: Path) -> None:
    """Write files and directories through the system's cache, so that a rename is the last act."""
    for path in (*_files(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
