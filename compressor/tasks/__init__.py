"""Finds the tasks: each file in this folder is one, named after the word in the recipe."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from compressor.tasks._base import Batch, Example, Task

__all__ = ["Batch", "Example", "Task", "load_task", "task_class", "task_names"]


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


def load_task(name: str, *, max_length: int | None = None) -> Task:
    """Return the task called `name` with its options; raises `KeyError` like `task_class`."""
    return task_class(name)(max_length=max_length)
