"""Decides what a path is: an .onnx file, an artifact, a run's directory, or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.inspection.facts import OnnxFacts
from compressor.inspection.inputs import TextRows
from compressor.inspection.onnx_file import inspect_onnx
from compressor.paths import ABSENT, exists, is_folder, unreadable
from compressor.progress import SILENT, Progress
from compressor.tasks import task_names

if TYPE_CHECKING:
    from compressor.inspection.checkpoint import CheckpointFacts

_MODEL = "model.onnx"
_MANIFEST = "manifest.json"
_OTHERS = (
    ".yaml",
    ".yml",
    ".json",
    ".csv",
    ".tsv",
    ".jsonl",
    ".parquet",
    ".conll",
    ".npz",
    ".safetensors",
    ".bin",
)


def inspect_path(
    place: str,
    *,
    data: Path | None = None,
    text: str | None = None,
    tokenizer: Path | None = None,
    task: str | None = None,
    timing: bool = True,
    progress: Progress = SILENT,
) -> OnnxFacts | CheckpointFacts:
    """Return the facts about an .onnx file, an artifact, a run's artifact, or a checkpoint.

    `data` and `text` are rows to try saturation on, `tokenizer` is the directory of the .onnx file
    when left out; `task` and `timing` are for checkpoints.

    Raises `EnvironmentMismatch` when nothing is there or it is damaged, `RecipeError` when the
    options do not fit what is there.
    """
    path = find_onnx(Path(place))
    if path is None:
        if data is not None:
            raise RecipeError(
                f"--data: {place} is a checkpoint, whose matmuls do not saturate; give an .onnx "
                f"file or an artifact, or leave --data out"
            )
        from compressor.inspection.checkpoint import inspect_checkpoint  # torch takes seconds

        if task is not None and task not in task_names():
            raise RecipeError(f"--task: {task!r} is no task (allowed: {', '.join(task_names())})")
        return inspect_checkpoint(place, task=task, timing=timing, progress=progress)
    if task is not None:
        raise RecipeError(f"--task: {path} says what it is for, or needs it not; leave it out")
    if (data is None) != (text is None):
        raise RecipeError("--data and --text belong together: the file and its column of texts")
    rows = None
    if data is not None and text is not None:
        rows = TextRows(data, text, path.parent if tokenizer is None else tokenizer)
    return inspect_onnx(path, rows=rows, progress=progress)


def find_onnx(path: Path) -> Path | None:
    """Return the .onnx file that `path` is or holds; None for a checkpoint or a Hub id.

    Raises `EnvironmentMismatch` for a path to a file that does not exist.
    """
    reason = unreadable(path)
    if reason is None:
        if path.suffix in _OTHERS:
            raise RecipeError(
                f"{path}: is no model; give a checkpoint (a directory or a Hub id), an .onnx file "
                f"or an artifact"
            )
        return path
    if exists(path) and not is_folder(path):
        raise EnvironmentMismatch(f"{path}: {reason}; give an .onnx file or a directory")
    for folder in (path, path / "artifact"):
        if unreadable(folder / _MANIFEST) is None or (
            unreadable(folder / _MODEL) is None and not any(folder.glob("*.safetensors"))
        ):
            return folder / _MODEL
    if path.suffix == ".onnx" and not is_folder(path):
        why = "no such file" if reason == ABSENT else reason
        raise EnvironmentMismatch(f"{path}: {why}; give an .onnx file or a directory")
    return None
