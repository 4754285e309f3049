"""What data sets call their parts, and the split of a recipe that each is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_NAMES = {  # the first one wins where a data set has several
    "search": ("dev", "validation", "valid", "val", "search"),
    "certification": ("test", "certification"),
    "train": ("train",),
}
USUAL_NAMES = frozenset(name for names in _NAMES.values() for name in names)


def usual_splits(parts: Mapping[str, Path]) -> dict[str, Path]:
    """Return those of `parts`, paths by the name of the part, that a split takes, by the split."""
    return {
        split: parts[name]
        for split, names in _NAMES.items()
        for name in names[::-1]  # the last one stays
        if name in parts
    }
