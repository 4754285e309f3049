"""A store of finished steps that several runs share, on one machine or on several hosts.

What two runs have in common is done once: whoever comes second waits for the first, and takes over
where that one dies. Two locks stand for each key, which the system drops with their owner:

- `making` is held alone by the run that does the step. It covers the scratch folder and the name
  under which a step is written before it appears by renaming, whole.
- `using` is shared by all runs that do or read the step, until they end, so that `prune` takes
  nothing away from under a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.files import write_whole
from compressor.machine.locks import Lock, locked
from compressor.machine.turns import working
from compressor.paths import ABSENT, no_folder
from compressor.pipeline.step_store import PARTIAL, Step, StepStore, remove
from compressor.words import counted

MARK = "store.json"  # by which a folder is known to be a store
_MARKED = '{"compressor_steps": 1}\n'
_GONE = ".gone-"  # how the name of a step begins that is being removed
_MAKING, _USING = "making", "using"


class SharedStepStore(StepStore):
    """The steps in `folder`, for one run with its own scratch space `private`.

    Finished steps lie in `steps`, what unfinished ones left in `work`, locks in `locks`. `tell` is
    told when the run waits for another one.

    Raises `RecipeError` where `folder` holds other things, `EnvironmentMismatch` where it cannot be
    used.
    """

    def __init__(self, folder: Path, private: Path, tell: Callable[[str], object]) -> None:
        open_store(folder)
        self._locks, self._private, self._tell = folder / "locks", private, tell
        self._held: dict[str, Lock] = {}
        super().__init__(folder / "steps", folder / "work")

    @property
    def private(self) -> Path:
        """Return scratch space that no other run shares."""
        return self._private

    def tidy(self) -> None:
        """Leave everything as it is: what looks left over may be a living run's."""

    def find(self, name: str, key: str) -> Step | None:
        """Return the stored step of this key, after every byte of it was checked.

        From then on nothing removes the step until `close`.
        """
        self._use(key)
        return super().find(name, key)

    def _drop_damaged(self, folder: Path) -> None:
        """Leave it to `make`, which holds the lock of the key."""

    def make(
        self,
        name: str,
        key: str,
        depends_on: Mapping[str, Any],
        work: Callable[[Path, Path], dict[str, Any]],
    ) -> Step:
        """Do a step that is not stored, and store it; or wait for another run that does it."""

        def tell() -> None:
            self._tell(f"{name}: another run is doing it; waiting for that one")

        self._use(key)
        with locked(self._lock(_MAKING, key).path, before_waiting=tell):
            found = self.find(name, key)
            if found is not None:
                return found
            # What is there now was damaged, or is half of what a killed run wrote.
            remove(self.path / key)
            remove(self.path / f"{PARTIAL}{key}")
            with working():
                return super().make(name, key, depends_on, work)

    def remove_unused(self) -> None:
        """Remove the run's own scratch space: what lies in the store is everybody's."""
        remove(self._private)

    def close(self) -> None:
        """Let go of the steps, so that `prune` may take them."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def _use(self, key: str) -> None:
        if key not in self._held:
            lock = self._lock(_USING, key)
            lock.acquire(shared=True)
            self._held[key] = lock
            os.utime(lock.path)  # when a step was used last decides what `prune` takes first

    def _lock(self, kind: str, key: str) -> Lock:
        return Lock(self._locks / f"{key}.{kind}")


def open_store(folder: Path) -> None:
    """Make `folder` a store of steps, or see that it is one.

    Raises as `SharedStepStore`.
    """
    reason = no_folder(folder)
    if reason not in (None, ABSENT):
        raise RecipeError(f"--store {folder}: {reason}; give a directory, or a name for a new one")
    if (folder / MARK).is_file():
        return
    with locked(folder / ".lock"):
        if (folder / MARK).is_file():
            return
        if any(item.name != ".lock" for item in folder.iterdir()):
            raise RecipeError(
                f"--store {folder}: is not empty and holds no store of compressor; give another "
                f"directory, or a name for a new one"
            )
        try:
            write_whole(folder / MARK, _MARKED)
        except OSError as error:
            raise EnvironmentMismatch(
                f"--store {folder}: cannot be written ({error.strerror}); give a directory that "
                f"can be written"
            ) from error


@dataclass(frozen=True)
class StoreContent:
    """What lies in a store: finished steps, and what unfinished ones left; sizes in bytes."""

    num_steps: int
    num_unfinished: int
    num_bytes: int
    num_in_use: int  # of both; when pruning, what was passed over

    def __str__(self) -> str:
        """Say it in words."""
        in_use = f", {self.num_in_use:,} of them in use" if self.num_in_use else ""
        both = [counted(self.num_steps, "step")]
        if self.num_unfinished:
            both.append(f"{self.num_unfinished:,} unfinished")
        return f"{' and '.join(both)}{in_use}, {self.num_bytes / 1e6:,.1f} MB"


@dataclass(frozen=True)
class _Entry:
    key: str
    folder: Path
    num_bytes: int
    last_used: float  # seconds since the epoch


def content_of(folder: Path) -> StoreContent:
    """Return what lies in the store `folder`; raises `RecipeError` where it is none."""
    found = _entries(_require_store(folder))
    steps = [item for item in found if item.folder.parent.name == "steps"]
    in_use = sum(_is_in_use(folder, item.key) for item in found)
    total = sum(item.num_bytes for item in found)
    return StoreContent(len(steps), len(found) - len(steps), total, in_use)


def prune(folder: Path, keep_bytes: int) -> StoreContent:
    """Remove what was used longest ago until at most `keep_bytes` are left.

    Returns what was removed. What a living run uses stays, whatever its size: `num_in_use` says how
    much was passed over. Files that an output directory still links take their room until that is
    removed too. Raises `RecipeError` where `folder` is no store.
    """
    left = sorted(_entries(_require_store(folder)), key=lambda item: (item.last_used, item.key))
    total = sum(item.num_bytes for item in left)
    removed: list[_Entry] = []
    in_use = 0
    for item in left:
        if total <= keep_bytes:
            break
        if _take(folder, item):
            removed.append(item)
            total -= item.num_bytes
        else:
            in_use += 1
    steps = sum(item.folder.parent.name == "steps" for item in removed)
    freed = sum(item.num_bytes for item in removed)
    _remove_rests(folder)
    return StoreContent(steps, len(removed) - steps, freed, in_use)


def _require_store(folder: Path) -> Path:
    reason = no_folder(folder)
    if reason is None and not (folder / MARK).is_file():
        reason = "holds no store of compressor"
    if reason is not None:
        raise RecipeError(f"{folder}: {reason}; give the directory that --store was given")
    return folder


def _entries(folder: Path) -> list[_Entry]:
    """Return the finished steps and the scratch folders of a store."""
    found = []
    for place in (folder / "steps", folder / "work"):
        for item in place.iterdir() if place.is_dir() else ():
            if item.name.startswith(".") or not item.is_dir():
                continue
            used = folder / "locks" / f"{item.name}.{_USING}"
            try:
                last_used = (used if used.exists() else item).stat().st_mtime
            except FileNotFoundError:
                continue  # it is gone meanwhile
            found.append(_Entry(item.name, item, _size(item), last_used))
    return found


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue  # it is gone meanwhile
    return total


def _is_in_use(folder: Path, key: str) -> bool:
    lock = Lock(folder / "locks" / f"{key}.{_USING}")
    is_free = lock.acquire(wait=False)
    lock.release()
    return not is_free


def _take(folder: Path, item: _Entry) -> bool:
    """Remove an entry unless a run uses it; return whether it is gone.

    Every run that makes a step uses it too, so that one lock says enough.
    """
    lock = Lock(folder / "locks" / f"{item.key}.{_USING}")
    if not lock.acquire(wait=False):
        return False
    gone = item.folder.with_name(f"{_GONE}{item.key}-{time.time_ns()}")
    if item.folder.exists():
        item.folder.rename(gone)  # at once: nobody finds half of it
        remove(gone)
    lock.release()
    return True


def _remove_rests(folder: Path) -> None:
    """Remove halves that killed runs left, and the locks of keys of which nothing is left."""
    steps = folder / "steps"
    for half in (*steps.glob(f"{PARTIAL}*"), *folder.glob(f"*/{_GONE}*")):
        key = half.name.removeprefix(PARTIAL).removeprefix(_GONE).partition("-")[0]
        lock = Lock(folder / "locks" / f"{key}.{_USING}")
        if lock.acquire(wait=False):
            remove(half)
            lock.release()
    for path in (folder / "locks").glob(f"*.{_USING}"):
        key = path.name.removesuffix(f".{_USING}")
        if (steps / key).exists() or (folder / "work" / key).exists():
            continue
        using, making = Lock(path), Lock(path.with_name(f"{key}.{_MAKING}"))
        if using.acquire(wait=False):
            if making.acquire(wait=False):
                making.remove()
            using.remove()
