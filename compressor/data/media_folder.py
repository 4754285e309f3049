"""Folders of images or sounds as rows: one folder for each class, or files alone.

The columns are `image` or `audio`, a path below the folder, and `label`, the name of the class. The
order of rows is that of the names, on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.paths import no_folder, special_files
from compressor.tasks.table import Table, choose_columns
from compressor.words import few_of

_LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Media:
    """What files a folder holds: `noun` is what one of them is, `column` that of their paths."""

    noun: str
    column: str
    suffixes: tuple[str, ...]
    others: str = ""  # what is done with other files of the kind

    @property
    def nouns(self) -> str:
        """Return what several are called, which is the key of a split's folder too."""
        return f"{self.noun}s"


IMAGES = Media(
    "image", "image", (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
)
SOUNDS = Media("sound", "audio", (".wav",), " convert it to WAV,")
MEDIA = {media.nouns: media for media in (IMAGES, SOUNDS)}


def media_columns(folder: Path, media: Media) -> list[str]:
    """Return the columns of a folder: `label` only where files lie in folders."""
    return [media.column, "label"] if _classes(folder, media) else [media.column]


def media_files(folder: Path, media: Media) -> list[Path]:
    """Return the images or sounds below a folder, in the order of the rows."""
    return [folder / path for path, _ in _rows(folder, media)]


def read_media_folder(
    folder: Path, media: Media, required: Sequence[str], optional: Sequence[str]
) -> Table:
    """Return the images or sounds below `folder`, with their classes where they lie in folders.

    Raises `EnvironmentMismatch` when the folder is missing, empty or cannot be read, `RecipeError`
    for files of another kind, files beside folders, and columns that there are not.
    """
    chosen = choose_columns(str(folder), media_columns(folder, media), required, optional)
    rows = list(_rows(folder, media))
    columns = {media.column: [path for path, _ in rows], "label": [label for _, label in rows]}
    return Table(str(folder), {name: columns[name] for name in chosen}, directory=folder)


def _rows(folder: Path, media: Media) -> Iterator[tuple[str, str]]:
    """Yield the path below `folder` and the class of each file, in the order of the names."""
    found = list(_found(folder, media))
    if not found:
        raise EnvironmentMismatch(
            f"{folder}: holds no {media.nouns} ({', '.join(media.suffixes)}); give a folder of "
            f"{media.nouns}, relative to the recipe"
        )
    yield from found


def _found(folder: Path, media: Media) -> Iterator[tuple[str, str]]:
    """Yield what `_rows` promises of a folder that may hold nothing."""
    classes = _classes(folder, media)
    if not classes:
        yield from ((path, "") for path in _in(folder, folder, media))
        return
    if loose := _in(folder, folder, media, deep=False):
        raise RecipeError(
            f"{folder}: {media.nouns} ({few_of(loose)}) lie beside folders ({few_of(classes)}), "
            f"and the folder of one is its class; move them into one"
        )
    for name in classes:
        yield from ((path, name) for path in _in(folder / name, folder, media))


def _classes(folder: Path, media: Media) -> list[str]:
    """Return the names of the folders below, which are those of classes."""
    if (reason := no_folder(folder)) is not None:
        raise EnvironmentMismatch(
            f"{folder}: {reason}; give a folder of {media.nouns}, relative to the recipe"
        )
    if (special := next(special_files(folder), None)) is not None:
        raise EnvironmentMismatch(f"{special}, and reading it might never end; remove it")
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def _in(place: Path, folder: Path, media: Media, *, deep: bool = True) -> list[str]:
    """Return the paths, below `folder`, of the files in `place`, and further down if `deep`."""
    found: list[str] = []
    for entry in _entries(place):
        if entry.is_dir():
            if deep:
                found += _in(entry, folder, media)
        elif entry.suffix.lower() in media.suffixes:
            found.append(entry.relative_to(folder).as_posix())
        elif entry.name not in _LEFT_BY_SYSTEMS:
            raise RecipeError(
                f"{entry}: is no {media.noun} by its name ({', '.join(media.suffixes)});"
                f"{media.others} remove it, or list the {media.nouns} in a file of rows"
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
