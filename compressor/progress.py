"""The interface by which work reports its progress, without knowing who listens.

Library code reports to a `Progress`; `console.py` shows it with rich, everyone else gets `Silent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

# How many seconds a run has left now, asked as often as a display likes; None where nobody can say.
Remaining = Callable[[], float | None]


class Advance(Protocol):
    """Move one bar forward."""

    def __call__(self, amount: int = 1, detail: str = "") -> None:
        """Count `amount` finished units; `detail` is a short text such as the current loss."""


class Progress(Protocol):
    """Somewhere to report long work to."""

    def stage(self, title: str) -> None:
        """Announce the next step of the run, such as `pass 2 of 3: quantize_dynamic`."""

    def result(self, text: str) -> None:
        """Announce what the step under way found out, such as `accuracy 0.8968 on 872 examples`."""

    def upcoming(self, text: str) -> None:
        """Announce what comes next, such as `passes[1] (trim_vocabulary)`."""

    @contextmanager
    def whole(self, remaining: Remaining) -> Iterator[None]:
        """Show, for the length of a block that is a whole run, what it has left."""
        ...

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        """Open a bar of `total` units (`None` when nobody can know) for the length of a block."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def stage(self, title: str) -> None:
        """Ignore the announcement."""

    def result(self, text: str) -> None:
        """Ignore the result."""

    def upcoming(self, text: str) -> None:
        """Ignore what comes next."""

    @contextmanager
    def whole(self, remaining: Remaining) -> Iterator[None]:  # noqa: ARG002
        """Show nothing."""
        yield

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """Yield an advance that does nothing."""

        def advance(amount: int = 1, detail: str = "") -> None:
            del amount, detail

        yield advance


SILENT = Silent()


def duration(seconds: float) -> str:
    """Say how long something took.

    >>> [duration(3.4), duration(41), duration(125), duration(7260)]
    ['3.4 s', '41 s', '2 min 5 s', '2 h 1 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if (whole := round(seconds)) < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float | None) -> str:
    """Say an estimate of what is left, no finer than it deserves.

    >>> [time_left(2), time_left(38), time_left(100), time_left(330), time_left(6000)]
    ['a few seconds left', 'about 40 s left', 'about 2 min left', 'about 6 min left', \
'about 1.7 h left']
    >>> time_left(None)
    'time left unknown'
    """
    return "time left unknown" if seconds is None else f"{rough(seconds)} left"


def rough(seconds: float) -> str:
    """Say an estimate in seconds, minutes or hours.

    >>> [rough(14), rough(61), rough(119), rough(5000)]
    ['about 10 s', 'about 1 min', 'about 2 min', 'about 83 min']
    """
    if seconds < 7:
        return "a few seconds"
    if seconds < 55:
        return f"about {10 * max(1, round(seconds / 10))} s"
    if seconds < 90 * 60:
        return f"about {max(1, round(seconds / 60))} min"
    return f"about {seconds / 3600:.1f} h"
