"""Finds the parts of a folder of images or sounds, for a starter recipe.

Either it has a folder for each class, or files alone, and judges as a whole; or a folder for each
part, `train`, `validation` and `test`, as such collections are often packed.
"""

from __future__ import annotations

from pathlib import Path

from compressor.errors import RecipeError
from compressor.starter.usual_parts import USUAL_NAMES, usual_splits
from compressor.words import listing


def folder_splits(folder: Path) -> dict[str, Path]:
    """Return the folders by the split of a recipe that each is for; `folder` is for search alone.

    The only part besides train is for search. Raises `RecipeError` where no telling which one is to
    judge.
    """
    parts = {
        path.name.lower(): path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if not parts or not parts.keys() <= USUAL_NAMES:
        return {"search": folder}
    splits = usual_splits(parts)
    if "search" not in splits and "certification" in splits:
        splits["search"] = splits.pop("certification")
    if "search" not in splits:
        raise RecipeError(
            f"--data: {folder} has {listing(list(parts))}, and none of them is to judge by; give "
            f"--data the folder that judges, and --train and --certification others"
        )
    return splits
