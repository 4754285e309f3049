"""Finds the passes: each file in this folder holds one, and its name is the word in the recipe."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache

from compressor.passes._base import (
    About,
    Ahead,
    NothingToRemove,
    OnnxPass,
    Pass,
    PassContext,
    PassGroup,
    TorchPass,
)
from compressor.passes._describe import SettingDescription, pass_settings

__all__ = [
    "About",
    "Ahead",
    "NothingToRemove",
    "OnnxPass",
    "Pass",
    "PassContext",
    "PassGroup",
    "SettingDescription",
    "TorchPass",
    "discover",
    "pass_settings",
]


@cache
def discover() -> dict[str, type[Pass]]:
    """Return every pass by its kind, in alphabetical order.

    Raises `TypeError` when a file does not hold exactly one pass of the file's name.
    """
    found: dict[str, type[Pass]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda item: item.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        own = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, Pass)
            and value.__module__ == module.__name__
        ]
        if len(own) != 1 or own[0].model_fields["kind"].default != info.name:
            raise TypeError(
                f"{module.__file__}: a pass file holds exactly one Pass whose kind is the file's "
                f"name, found {[item.__name__ for item in own]}"
            )
        found[info.name] = own[0]
    return found
