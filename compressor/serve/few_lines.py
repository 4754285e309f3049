"""Lines of a log, of each kind one a minute: whoever knocks often does not fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeAlias

SECONDS = 60.0
# What uvicorn logs but accesses, which are asked for, and what the event loop does.
_LOGGERS = ("uvicorn.error", "asyncio")

# Where a line is written, and the type and the place of the error that it shows.
Kind: TypeAlias = tuple[str, int, str, str, int]


class FewLines(logging.Filter):
    """Lets through one line of a kind in `seconds`, which tells how many were left out since.

    Lines are of a kind when the same place in the source writes them, of an error of the same type
    that was raised at the same place. What changes with each request tells none apart, so that
    there are as many kinds as the source has places.
    """

    def __init__(
        self, seconds: float = SECONDS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._seconds, self._clock = seconds, clock
        self._own = threading.Lock()
        self._said: dict[Kind, float] = {}
        self._left_out: Counter[Kind] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written, and count it otherwise."""
        kind, now = _kind_of(record), self._clock()
        with self._own:
            before = self._said.get(kind)
            if before is not None and now - before < self._seconds:
                self._left_out[kind] += 1
                return False
            self._said[kind] = now
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            # A line that ends in a newline has a traceback below it.
            record.msg = f"{record.getMessage().rstrip()} (and {left_out} more before it)"
            record.args = ()
        return True

    @property
    def left_out(self) -> int:
        """Return how many lines were left out and not told of yet."""
        with self._own:
            return self._left_out.total()


def _kind_of(record: logging.LogRecord) -> Kind:
    kind, error, trace = record.exc_info or (None, None, None)
    del error
    name, line = "", 0
    if isinstance(trace, TracebackType):
        while trace.tb_next is not None:
            trace = trace.tb_next
        name, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
    return record.pathname, record.lineno, "" if kind is None else kind.__name__, name, line


@contextmanager
def few_lines() -> Iterator[FewLines]:
    """Let a service log a line of each kind once a minute, and in the end how many it did not."""
    own = FewLines()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(own)
    try:
        yield own
    finally:
        for logger in loggers:
            logger.removeFilter(own)
        if own.left_out:
            loggers[0].warning("%d further lines like these were left out", own.left_out)
