"""The recipes that `compress quickstart` writes for a first run, so that they can be read and kept.

They lie in the package because an installed wheel has no `recipes` folder; a test holds the copies
there to the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.files import write_whole
from compressor.paths import ABSENT, unreadable, unwritable

RECIPES = ("quickstart", "digits")


def write_recipe(name: str, directory: Path) -> Path:
    """Write `NAME.yaml` into `directory`, which is made where it is missing, and return its path.

    A file that is there with the same text is left alone. Raises `RecipeError` for one with another
    text, `EnvironmentMismatch` where nothing can be written.
    """
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    path = directory / f"{name}.yaml"
    reason = unreadable(path)
    if reason is None:
        if path.read_bytes() == text.encode():
            return path
        raise RecipeError(
            f"{path}: exists and is not the recipe that would be written; run it with "
            f"`compress run {path}`, or give --output another directory"
        )
    if reason != ABSENT or (reason := unwritable(path)) is not None:
        raise EnvironmentMismatch(f"{path}: {reason}; give --output another directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{path}: cannot be written ({error.strerror or error}); give --output a directory "
            f"that can be written"
        ) from error
    return path
