"""Keeps what other libraries print and log away from a run, and leaves their settings as they were.

What they would say and what matters is said by this package itself, in its own words: weights that
are missing or left over, texts that are cut, numbers that differ after an export.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

_LIBRARIES = (
    "accelerate", "datasets", "huggingface_hub", "onnx_ir", "onnxscript", "onnxruntime", "optimum",
    "sklearn", "torch", "torch_pruning", "transformers",
)  # fmt: skip

_everything_shows: ContextVar[bool] = ContextVar("everything_shows", default=False)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show no table, bar, warning or message of the libraries that this package is built on.

    Errors stay. Within `loud_libraries` everything does.
    """
    if _everything_shows.get():
        yield
        return
    with ExitStack() as stack:
        for name in _LIBRARIES:
            stack.enter_context(_errors_alone(logging.getLogger(name)))
        stack.enter_context(_without_bars())
        stack.enter_context(warnings.catch_warnings())
        for name in _LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        yield


@contextmanager
def loud_libraries() -> Iterator[None]:
    """Let everything be shown that `quiet_libraries` would keep away, for who looks for a fault."""
    token = _everything_shows.set(True)
    try:
        yield
    finally:
        _everything_shows.reset(token)


@contextmanager
def _errors_alone(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(max(logging.ERROR, before))
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Turn the bars of transformers, datasets and the Hub off."""
    # Imported here: a process that never runs anything never loads them. Some are not typed.
    of_transformers: Any = importlib.import_module("transformers.utils.logging")
    datasets: Any = importlib.import_module("datasets.utils")
    hub: Any = importlib.import_module("huggingface_hub.utils")
    # That of transformers turns the Hub's off and on too, so the Hub's is asked first, set last.
    hub_shows = not hub.are_progress_bars_disabled()
    datasets_shows = not datasets.are_progress_bars_disabled()
    shows = of_transformers.is_progress_bar_enabled()
    if shows:
        of_transformers.disable_progress_bar()
    _switch(hub, on=False)
    _switch(datasets, on=False)
    try:
        yield
    finally:
        if shows:
            of_transformers.enable_progress_bar()
        _switch(hub, on=hub_shows)
        _switch(datasets, on=datasets_shows)


def _switch(library: Any, *, on: bool) -> None:
    """Turn bars on or off, unless they are: where the environment decided, asking is a warning."""
    if on == library.are_progress_bars_disabled():
        (library.enable_progress_bars if on else library.disable_progress_bars)()
