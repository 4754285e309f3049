"""Finds the tasks: each file in this folder is one, named after the word in the recipe."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

from compressor.errors import RecipeError
from compressor.tasks._base import Batch, Example, Guess, Task, Truth
from compressor.tasks._pixels import pixels_of
from compressor.tasks._similarity import candidates, cosines, nearest
from compressor.tasks._text import NO_LIMIT

__all__ = [
    "NO_LIMIT",
    "Batch",
    "Example",
    "Guess",
    "Task",
    "Truth",
    "candidates",
    "cosines",
    "load_task",
    "nearest",
    "pixels_of",
    "task_class",
    "task_names",
]


def task_names() -> tuple[str, ...]:
    """Return the words that `model.task` accepts."""
    files = (info.name for info in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in files if not name.startswith("_")))


def task_class(name: str) -> type[Task]:
    """Return the task called `name`; raises `KeyError` for a word that is not in `task_names()`."""
    if name not in task_names():
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    [found] = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Task)
        and value.__module__ == module.__name__
    ]
    return found


def load_task(
    name: str,
    *,
    max_length: int | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
) -> Task:
    """Return the task called `name` with its options; raises `KeyError` like `task_class`.

    Raises `RecipeError` for `pooling` or `normalize` of a task that gives no vectors.
    """
    kind: type[Any] = task_class(name)
    wanted = {"pooling": pooling, "normalize": normalize}
    given = {option: value for option, value in wanted.items() if value is not None}
    unknown = given.keys() - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise RecipeError(
            [f"model.{option}: {name} gives no vectors; remove it" for option in sorted(unknown)]
        )
    task: Task = kind(max_length=max_length, **given)
    return task
