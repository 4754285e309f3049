"""What the values of a column are: texts, files, grades, lists, or labels in some spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.tasks.label_columns import flag_of

Columns = Mapping[str, Sequence[Any]]

_FILE = re.compile(r".*\.(?:png|jpe?g|bmp|gif|webp|tiff?|wav)", re.IGNORECASE)
_OTHER_FILE = re.compile(
    r".*\.(mp3|flac|ogg|opus|m4a|aac|wma|mp4|webm|heic|avif|svg|jp2)", re.IGNORECASE
)
_LETTERS = re.compile(r"[\W_]+")  # what stands between letters and digits
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_SAMPLE = 500  # rows that are looked at to tell texts from other columns
_WORDS_OF_A_TEXT = 2.0  # on average; names and ids have fewer


def is_text(values: Sequence[Any]) -> bool:
    """Return whether a column holds texts: strings of two words or more on average."""
    sample = [value for value in values[:_SAMPLE] if value is not None]
    if not sample or not all(isinstance(value, str) for value in sample):
        return False
    return float(np.mean([len(value.split()) for value in sample])) >= _WORDS_OF_A_TEXT


def is_file(values: Sequence[Any]) -> bool:
    """Return whether a column holds images or sounds: paths, bytes or arrays."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, dict):
        return "bytes" in first or "path" in first
    if isinstance(first, str):
        return bool(_FILE.fullmatch(first))
    return isinstance(first, bytes | np.ndarray)


def ending_not_read(values: Sequence[Any]) -> str | None:
    """Return how files of sounds or images end that a column names and nothing here reads."""
    first = next((value for value in values if value is not None), None)
    match = _OTHER_FILE.fullmatch(first) if isinstance(first, str) else None
    return match[1] if match else None


def is_grade(values: Sequence[Any]) -> bool:
    """Return whether a column holds finite numbers, as such or as text, that are not all equal."""
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite(numbers).all() and np.ptp(numbers) > 0)


def are_lists(values: Sequence[Any]) -> bool:
    """Return whether every cell of a column is a list."""
    return bool(values) and all(isinstance(value, list | tuple | np.ndarray) for value in values)


def are_flags(values: Sequence[Any]) -> bool:
    """Return whether every cell of a column says whether a label holds."""
    return bool(values) and all(flag_of(value) is not None for value in values)


def are_compound(values: Sequence[Any]) -> bool:
    """Return whether a cell of a column holds several values."""
    return any(isinstance(value, list | tuple | dict | np.ndarray) for value in values[:_SAMPLE])


def is_absent(value: Any) -> bool:
    """Return whether a cell says that nobody knows the label, as -1 does in SNLI."""
    return value is None or value in ("", "-", "-1") or value == -1 or value != value


def in_lists(values: Sequence[Any]) -> set[Any]:
    """Return what stands in the lists of a column; empty where a cell is no list of plain values.

    Names that the data gives are looked at everywhere, as one stranger makes a column no tags.
    """
    found: set[Any] = set()
    for value in values:
        if not isinstance(value, list):
            return set()
        if not all(isinstance(item, str | int) for item in value):
            return set()
        found.update(value)
    return found


def columns_of_labels(columns: Columns, names: Sequence[str]) -> tuple[str, ...]:
    """Return the column of each name, where every one is there and holds 0 or 1 alone."""
    spelled = {_LETTERS.sub("", column.casefold()): column for column in columns}
    found = [
        name if name in columns else spelled.get(_LETTERS.sub("", name.casefold()), "")
        for name in names
    ]
    is_each = len(set(found)) == len(found) and all(found)
    if not is_each or not all(are_flags(columns[name]) for name in found):
        return ()
    return tuple(found)


def spelling(
    values: Sequence[Any], labels: Sequence[str], names: tuple[str, ...]
) -> tuple[str, ...] | None:
    """Return the data's names in the checkpoint's order; empty for the checkpoint's own or ids.

    None when the values are not the labels.
    """
    found = set(map(_plain, values))
    if not found or None in found:
        return None
    if names:
        spelled = {str(value) for value in found}  # numbers are named as text
        return names if spelled <= set(names) and len(names) == len(labels) else None
    texts = {str(value) for value in found}
    if texts <= set(labels):
        return ()
    if all(_INTEGER.fullmatch(text) and 0 <= int(text) < len(labels) for text in texts):
        return ()
    folded = {text.strip().casefold(): text for text in texts}
    own = {label.casefold() for label in labels}
    if len(folded) == len(texts) and len(own) == len(labels) and set(folded) <= own:
        return tuple(folded.get(label.casefold(), label) for label in labels)
    return None


def _plain(value: Any) -> str | int | None:
    """Return a label as text or number, None for anything that cannot be one.

    pandas stores whole numbers as floats where one is missing.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        return None
    return value if isinstance(value, str) else int(value)
