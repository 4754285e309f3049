"""How long work says how far it is, without knowing who listens.

Library code reports to a `Progress`; `cli.py` shows it with rich, everyone else gets `Silent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


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

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """Yield an advance that does nothing."""

        def advance(amount: int = 1, detail: str = "") -> None:
            del amount, detail

        yield advance


SILENT = Silent()
