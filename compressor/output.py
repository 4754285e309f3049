"""The directory a run writes: claimed before the first step, never overwritten silently."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError

_OWN_FILES = ("report.json", "report.md", "report.html", "splits.json")
_OWN_FOLDERS = ("artifact", "baseline", "checkpoint", "work")


@dataclass(frozen=True)
class OutputDirectory:
    """Where each thing of a run lies."""

    path: Path

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
    """Create `path`, or with `force` remove an earlier run's files from it and nothing else.

    Raises `RecipeError` when it is not empty and `force` was not given, `EnvironmentMismatch` when
    it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise RecipeError(f"output: {path} is a file; give a directory")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise RecipeError(
                f"output: {path} is not empty; use --force to overwrite the run in it, or another "
                f"--output"
            )
        _remove_run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "work").mkdir()
    except OSError as error:
        raise EnvironmentMismatch(f"output: {path} cannot be written ({error})") from error
    if not os.access(path, os.W_OK):
        raise EnvironmentMismatch(f"output: {path} cannot be written")
    return OutputDirectory(path)


def _remove_run(path: Path) -> None:
    for name in _OWN_FOLDERS:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
    for name in _OWN_FILES:
        (path / name).unlink(missing_ok=True)
