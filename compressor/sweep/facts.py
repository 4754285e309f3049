"""What makes two sweeps the same: their settings, and the content of all that their trials read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compressor.data.media_folder import MEDIA, media_files
from compressor.data.readers import named_files
from compressor.files import facts_sha256, sha256
from compressor.models.checkpoint_files import files_read
from compressor.pipeline.inputs import local_inputs
from compressor.recipe.recipe import Recipe
from compressor.sweep.settings import Sweep


def facts_of(sweep: Sweep, recipe: Recipe) -> dict[str, Any]:
    """Return plain data that two workers share only when their trials can be compared.

    The number of trials is not part of it: there may be more later. Every file is read wholly.
    Raises what reading the rows that name images or sounds raises.
    """
    own = sweep.model_dump(mode="json", exclude={"recipe", "output", "trials", "choose"})
    own["recipe"] = {**recipe.to_dict(), "output": None}
    return {**own, **{f"content of {key}": digest for key, digest in _digests(recipe).items()}}


def _digests(recipe: Recipe) -> dict[str, str]:
    """Return a SHA-256 for each thing on this machine that a run reads, by its key."""
    found = {key: _digest(key, path) for key, path in local_inputs(recipe).items()}
    data = recipe.data
    for name, source in data.given.items():
        if source.path is None:
            continue
        columns = {"image": source.image or data.image, "audio": source.audio or data.audio}
        if files := _there(named_files(source.model_copy(update=columns))):
            found[f"files that data.{name}.path names"] = facts_sha256(list(map(sha256, files)))
    for position, step in enumerate(recipe.passes):
        for setting, digest in step.file_digests().items():
            found[f"passes.{position}.{setting}"] = digest
    return found


def _digest(key: str, path: Path) -> str:
    """Return one SHA-256 of a file, or of the files that are read in a folder."""
    if path.is_file():
        return sha256(path)
    files: Iterable[Path]
    media = MEDIA.get(key.rpartition(".")[2]) if key.startswith("data.") else None
    if media is not None:
        files = media_files(path, media)
    elif key.startswith("data."):  # as `datasets` keeps rows
        files = sorted(_there(path.rglob("*")))
    else:
        files = files_read(path)
    return facts_sha256({item.relative_to(path).as_posix(): sha256(item) for item in files})


def _there(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]
