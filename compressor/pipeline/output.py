"""The directory a run writes: claimed before the first step, and never shared.

A run holds a lock on `.lock` in its directory from start to end. The operating system drops it with
the process, however that ends, so the file that stays behind means nothing by itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from filelock import FileLock, Timeout

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.files import write_whole
from compressor.paths import exists, is_folder, no_folder, unwritable

TRACEBACK = "traceback.txt"  # of a bug in this package that stopped a run
EXPLANATIONS = ("explanations.json", "explanations.html")  # of `compress explain`
_LOCK = ".lock"
_RESULTS = (
    "report.json",
    "report.md",
    "report.html",
    *EXPLANATIONS,
    TRACEBACK,
    "splits.json",
    "artifact",
    "baseline",
    "checkpoint",
)
_KEPT = ("steps", "work")  # what a run that goes on needs


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
    def steps(self) -> Path:
        """Return the folder of the finished steps, from which a stopped run goes on."""
        return self.path / "steps"

    @property
    def work(self) -> Path:
        """Return scratch space of unfinished steps, removed when the run succeeds."""
        return self.path / "work"

    def replace_folder(self, fresh: Path, target: Path) -> None:
        """Move the folder `fresh` to `target`, in place of what lies there."""
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)

    def write_text(self, name: str, text: str) -> None:
        """Write a file that appears whole or not at all."""
        write_whole(self.path / name, text)


def claim_output(
    path: Path, *, force: bool, inputs: Mapping[str, Path] = MappingProxyType({})
) -> OutputDirectory:
    """Create and lock `path` for a new run, or for one that goes on where an earlier one ended.

    What the earlier run gave (artifact and report) is removed at once, so that nothing in the
    directory speaks of another recipe; its finished steps stay. With `force` they go too, and a
    directory that holds other files is accepted; those are never touched. `inputs` are the files
    and folders that the run reads, by their keys in the recipe.

    Raises `RecipeError` when the directory holds files of someone else and `force` was not given,
    when what would be removed holds an input, and when no run made it; `EnvironmentMismatch` when
    it cannot be written or another run is writing it, with `force` too.
    """
    check_output(path, force=force, inputs=inputs)
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
        raise _not_writable(path, error) from error
    try:
        _remove(path, (*_RESULTS, *(_KEPT if force else ())))
        for name in _KEPT:
            (path / name).mkdir(exist_ok=True)
    except OSError as error:
        lock.release()
        raise _not_writable(path, error) from error
    return OutputDirectory(path, lock)


def check_output(
    path: Path, *, force: bool, inputs: Mapping[str, Path] = MappingProxyType({})
) -> None:
    """Raise as `claim_output` does for what can be told without writing anything."""
    reason = no_folder(path)
    if reason is not None and exists(path):
        raise RecipeError(f"output: {path} {reason}; give a directory, or a name for a new one")
    if (reason := unwritable(path)) is not None and not is_folder(path):
        raise EnvironmentMismatch(
            f"output: {path} cannot be written: it {reason}; give another --output"
        )
    # A folder that never held a run is refused before anything, even a lock, is put into it.
    _refuse_occupied(path, force=force)
    _refuse_inputs(path, inputs)


def _refuse_inputs(path: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse to replace what the run itself reads, such as the checkpoint of an earlier run."""
    for key, read in inputs.items():
        for name in (*_RESULTS, *_KEPT):
            if _real(read).is_relative_to(_real(path / name)):
                raise RecipeError(
                    f"{key}: {read} lies in {path / name}, which this run would replace; give "
                    f"another --output, or copy it elsewhere first"
                )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `resolve` raises for links that lead in a circle


def _refuse_occupied(path: Path, *, force: bool) -> None:
    if not path.is_dir() or _held_a_run(path):
        return
    if force:
        if (path / "report.json").is_file():
            return  # a run whose hidden files were lost on the way, such as by a copy
        foreign = [name for name in (*_RESULTS, *_KEPT) if (path / name).exists()]
        if foreign:
            raise RecipeError(
                f"output: {path} holds {', '.join(foreign)}, which a run would replace, and no run "
                f"of compressor made them; move them away, or give another --output"
            )
        return
    if any(item.name != _LOCK for item in path.iterdir()):
        raise RecipeError(
            f"output: {path} is not empty and holds no run of compressor; give another --output, "
            f"or use --force to write into it all the same (files of other names stay)"
        )


def _held_a_run(path: Path) -> bool:
    marks = (path / name for name in (*_KEPT, "report.json"))
    return (path / _LOCK).is_file() and any(mark.exists() for mark in marks)


def _remove(path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        place = path / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _not_writable(path: Path, error: OSError) -> EnvironmentMismatch:
    return EnvironmentMismatch(
        f"output: {path} cannot be written ({error}); give another --output, free disk space or "
        f"fix permissions"
    )
