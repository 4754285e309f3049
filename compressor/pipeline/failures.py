"""What a run says about an exception that no step raised on purpose: a disk, or a bug of ours."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

from safetensors import SafetensorError

from compressor.errors import DISK_ERRORS, EnvironmentMismatch
from compressor.pipeline.inputs import local_inputs
from compressor.pipeline.output import TRACEBACK, OutputDirectory
from compressor.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

_BUG = "this is a bug in compressor and not a mistake in the recipe, the checkpoint or the data"


def disk_mismatch(
    error: OSError | SafetensorError, step: str, recipe: Recipe, directory: OutputDirectory
) -> EnvironmentMismatch:
    """Return the error that names what could not be read, or says that OUTPUT cannot be written."""
    path = _path_of(error)
    full = isinstance(error, OSError) and error.errno in DISK_ERRORS
    if path is None or full or path.is_relative_to(directory.path.absolute()):
        return EnvironmentMismatch(
            f"{step}: cannot read or write ({error}); check free space and permissions in "
            f"{directory.path}, then run the same command again to resume"
        )
    why = getattr(error, "strerror", None) or error
    text = (
        f"{path} cannot be read ({why}); check that it is there and that this user may read it, "
        f"then run again"
    )
    given = local_inputs(recipe).items()
    keys = [key for key, read in given if path.is_relative_to(read.absolute())]
    return EnvironmentMismatch(recipe.describe(keys[0], text) if keys else f"{step}: {text}")


def internal_error(error: BaseException, step: str, directory: OutputDirectory) -> str:
    """Say that `error` is a bug, and where its traceback lies, which is written here."""
    first_line = next(iter(str(error).splitlines()), "")
    told = f"internal error in {step}: {type(error).__name__}: {first_line}; {_BUG}"
    text = "".join(traceback.format_exception(error))
    try:
        directory.write_text(TRACEBACK, text)
    except OSError as unwritten:
        logger.error("%s could not be written: %s", TRACEBACK, unwritten)
        return f"{told}; please report it with its traceback"
    return f"{told}; please report it with the traceback in {directory.path / TRACEBACK}"


def _path_of(error: OSError | SafetensorError) -> Path | None:
    """Return the file that an error speaks of; None where it names none."""
    name = getattr(error, "filename", None)
    # Not resolved: what cannot be read may be a link that leads nowhere.
    return Path(os.fsdecode(name)).absolute() if isinstance(name, str | bytes) else None
