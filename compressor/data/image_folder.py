"""Folders of images as rows: one folder for each class, or images alone.

The columns are `image`, a path below the folder, and `label`, the name of the class. The order of
rows is that of the names, on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.paths import no_folder, special_files
from compressor.tasks.table import Table, choose_columns
from compressor.words import few_of

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")


def image_columns(folder: Path) -> list[str]:
    """Return the columns of a folder of images: `label` only where images lie in folders."""
    return ["image", "label"] if _classes(folder) else ["image"]


def image_files(folder: Path) -> list[Path]:
    """Return the images below a folder, in the order of the rows."""
    return [folder / path for path, _ in _images(folder)]


def read_image_folder(folder: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """Return the images below `folder`, with their classes where they lie in folders.

    Raises `EnvironmentMismatch` when the folder is missing or cannot be read, `RecipeError` for
    files that are no images, images beside folders, and columns that there are not.
    """
    chosen = choose_columns(str(folder), image_columns(folder), required, optional)
    rows = list(_images(folder))
    columns = {"image": [path for path, _ in rows], "label": [label for _, label in rows]}
    return Table(str(folder), {name: columns[name] for name in chosen}, directory=folder)


def _images(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the path below `folder` and the class of each image, in the order of the names."""
    classes = _classes(folder)
    if not classes:
        yield from ((path, "") for path in _in(folder, folder))
        return
    if loose := _in(folder, folder, deep=False):
        raise RecipeError(
            f"{folder}: images ({few_of(loose)}) lie beside folders ({few_of(classes)}), and the "
            f"folder of an image is its class; move them into one"
        )
    for name in classes:
        yield from ((path, name) for path in _in(folder / name, folder))


def _classes(folder: Path) -> list[str]:
    """Return the names of the folders below, which are those of classes."""
    if (reason := no_folder(folder)) is not None:
        raise EnvironmentMismatch(
            f"{folder}: {reason}; give a folder of images, relative to the recipe"
        )
    if (special := next(special_files(folder), None)) is not None:
        raise EnvironmentMismatch(f"{special}, and reading it might never end; remove it")
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def _in(place: Path, folder: Path, *, deep: bool = True) -> list[str]:
    """Return the paths, below `folder`, of the images in `place`, and further down if `deep`."""
    found: list[str] = []
    for entry in _entries(place):
        if entry.is_dir():
            if deep:
                found += _in(entry, folder)
        elif entry.suffix.lower() in _SUFFIXES:
            found.append(entry.relative_to(folder).as_posix())
        elif entry.name not in _LEFT_BY_SYSTEMS:
            raise RecipeError(
                f"{entry}: is no image by its name ({', '.join(_SUFFIXES)}); remove it, or list "
                f"the images in a file of rows"
            )
    return found


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, ordered by name, without what systems hide."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise EnvironmentMismatch(
            f"{folder}: cannot be read ({error.strerror or error}); fix its permissions"
        ) from error
