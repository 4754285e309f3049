"""Shows the progress of a run in a terminal with rich; plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from compressor.progress import Advance


class ConsoleProgress:
    """One line for each step, and below it a bar for what is under way.

    Off a terminal only the lines are written, so that a log stays readable.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def stage(self, title: str) -> None:
        """Write the step with the seconds since the start."""
        seconds = time.monotonic() - self._started
        self._console.print(f"[dim]{seconds:7.1f} s[/]  [bold]{_plain(title)}[/]", highlight=False)

    def result(self, text: str) -> None:
        """Write what a step found out, below its line."""
        self._console.print(f"           {_plain(text)}", highlight=False)

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        """Show a bar that disappears when its work is done."""
        columns = (
            TextColumn("           "),
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn() if total is not None else TextColumn(""),
            TimeElapsedColumn(),
            TimeRemainingColumn() if total is not None else TextColumn(""),
            TextColumn("left" if total is not None else ""),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as display:
            task = display.add_task(_plain(description), total=total, detail="")

            def advance(amount: int = 1, detail: str = "") -> None:
                display.update(task, advance=amount, detail=_plain(detail))

            yield advance


def _plain(text: str) -> str:
    """Escape rich's markup: `passes[0]` is a name, not a style."""
    return text.replace("[", r"\[")
