"""The directory a run writes: claimed before the first step, never overwritten silently.

A run holds a lock on `.lock` in its directory from start to end. The operating system drops it with
the process, however that ends, so the file that stays behind means nothing by itself.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from compressor.errors import EnvironmentMismatch, RecipeError

_OWN_FILES = ("report.json", "report.md", "report.html", "splits.json")
_LOCK = ".lock"
_OWN_FOLDERS = ("artifact", "baseline", "checkpoint", "work")


@dataclass(frozen=True)
class OutputDirectory:
    """Where each thing of a run lies; leaving it as a context lets other runs in again."""

    path: Path
    lock: FileLock

    def __enter__(self) -> Self:
        """Return the directory, which `claim_output` has locked."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self.lock.release()

    @property
    def artifact(self) -> Path:
        """Return the folder that is shipped."""
        return self.path / "artifact"

    @property
    def checkpoint(self) -> Path:
        """Return the folder of the last PyTorch model."""
        return self.path / "checkpoint"

    @property
    def baseline(self) -> Path:
        """Return the folder of the untouched checkpoint as ONNX, for comparison."""
        return self.path / "baseline"

    @property
    def work(self) -> Path:
        """Return scratch space, removed when the run succeeds."""
        return self.path / "work"

    def replace_checkpoint(self, fresh: Path) -> Path:
        """Move the folder `fresh` to where the last PyTorch model lies, and return that place."""
        if self.checkpoint.exists():
            shutil.rmtree(self.checkpoint)
        return fresh.rename(self.checkpoint)

    def write_text(self, name: str, text: str) -> None:
        """Write a file that appears whole or not at all."""
        temporary = self.path / f"{name}.partial"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)


def claim_output(path: Path, *, force: bool) -> OutputDirectory:
    """Create and lock `path`, or with `force` remove an earlier run's files and nothing else.

    Raises `RecipeError` when it is not empty and `force` was not given, `EnvironmentMismatch` when
    it cannot be written or another run is writing it, with `force` too.
    """
    if path.exists() and not path.is_dir():
        raise RecipeError(f"output: {path} is a file; give a directory")
    # A folder that never held a run is refused before anything, even a lock, is put into it.
    if not (path / _LOCK).exists():
        _refuse_occupied(path, force=force)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise EnvironmentMismatch(
            f"output: another run is writing {path}; wait for it or stop it, or give another "
            f"--output"
        ) from error
    except OSError as error:
        raise EnvironmentMismatch(f"output: {path} cannot be written ({error})") from error
    try:
        _refuse_occupied(path, force=force)
        _remove_run(path)
        (path / "work").mkdir()
    except OSError as error:
        lock.release()
        raise EnvironmentMismatch(f"output: {path} cannot be written ({error})") from error
    except RecipeError:
        lock.release()
        raise
    return OutputDirectory(path, lock)


def _refuse_occupied(path: Path, *, force: bool) -> None:
    if not force and path.is_dir() and any(item.name != _LOCK for item in path.iterdir()):
        raise RecipeError(
            f"output: {path} is not empty; use --force to overwrite the run in it, or another "
            f"--output"
        )


def _remove_run(path: Path) -> None:
    for name in _OWN_FOLDERS:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
    for name in _OWN_FILES:
        (path / name).unlink(missing_ok=True)
