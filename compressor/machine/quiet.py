"""Keeps what other libraries print and log away from a run, and leaves their settings as they were.

What they would say and what matters is said by this package itself, in its own words: weights that
are missing or left over, texts that are cut, numbers that differ after an export.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from types import ModuleType

_LIBRARIES = (
    "accelerate", "datasets", "huggingface_hub", "onnx_ir", "onnxscript", "onnxruntime", "optimum",
    "peft", "sklearn", "torch", "torch_pruning", "transformers",
)  # fmt: skip

_everything_shows: ContextVar[bool] = ContextVar("everything_shows", default=False)


class _Quiet:
    """How many blocks ask for quiet: the first one sees to it, the last one ends it.

    The settings are those of the whole process. Were each block to put back what it found, one in a
    thread would find what another had set, and the last to end would leave that for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._stack = ExitStack()

    def begin(self) -> None:
        with self._lock:
            if self._asking == 0:
                with ExitStack() as stack:
                    _enter(stack)
                    self._stack = stack.pop_all()
            self._asking += 1

    def loaded(self, library: ModuleType) -> None:
        with self._lock:
            if self._asking:
                self._stack.enter_context(_without_bars_of(library))

    def end(self) -> None:
        with self._lock:
            self._asking -= 1
            if self._asking == 0:
                self._stack.close()


_quiet = _Quiet()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Show no table, bar, warning or message of the libraries that this package is built on.

    Errors stay. Within `loud_libraries` everything does.
    """
    if _everything_shows.get():
        yield
        return
    _quiet.begin()
    try:
        yield
    finally:
        _quiet.end()


def bars_loaded(library: ModuleType) -> None:
    """Turn the bars of a library off for the rest of a quiet block, in which it was just loaded.

    It has `enable_progress_bars` and `disable_progress_bars`.
    """
    if not _everything_shows.get():
        _quiet.loaded(library)


@contextmanager
def loud_libraries() -> Iterator[None]:
    """Let everything be shown that `quiet_libraries` would keep away, for who looks for a fault."""
    token = _everything_shows.set(True)
    try:
        yield
    finally:
        _everything_shows.reset(token)


def _enter(stack: ExitStack) -> None:
    for name in _LIBRARIES:
        stack.enter_context(_errors_alone(logging.getLogger(name)))
    stack.enter_context(_without_bars())
    stack.enter_context(warnings.catch_warnings())
    for name in _LIBRARIES:
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")


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
    """Turn the bars of transformers and the Hub off, and of datasets where that is loaded.

    Loading it takes half a second, and few runs need it: `bars_loaded` is told when one does.
    """
    # Imported here: a process that never runs anything never loads them. Some are not typed.
    of_transformers = importlib.import_module("transformers.utils.logging")
    hub = importlib.import_module("huggingface_hub.utils")
    datasets = sys.modules.get("datasets.utils")
    # That of transformers turns the Hub's off and on too, so the Hub's is asked first, set last.
    with _without_bars_of(hub), nullcontext() if datasets is None else _without_bars_of(datasets):
        shows = of_transformers.is_progress_bar_enabled()
        if shows:
            of_transformers.disable_progress_bar()
        try:
            yield
        finally:
            if shows:
                of_transformers.enable_progress_bar()


@contextmanager
def _without_bars_of(library: ModuleType) -> Iterator[None]:
    shows = not library.are_progress_bars_disabled()
    _switch(library, on=False)
    try:
        yield
    finally:
        _switch(library, on=shows)


def _switch(library: ModuleType, *, on: bool) -> None:
    """Turn bars on or off, unless they are: where the environment decided, asking is a warning."""
    if on == library.are_progress_bars_disabled():
        (library.enable_progress_bars if on else library.disable_progress_bars)()
