"""Shows the progress of a run with rich: live lines in a terminal or notebook, else plain ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column, Table
from rich.text import Text

from compressor.progress import SILENT, Advance, Progress, Remaining, duration, time_left
from compressor.words import printable

_INDENT = 11  # columns before what a step found out
_REFRESHES = 4  # a second: what a display computes is taken from the work that it shows
_SECONDS_BETWEEN = 60.0  # lines about one bar in a log: work of an hour must not look like a hang


class ConsoleProgress:
    """One line for each step, and below it a bar for what is under way and a line for the whole.

    Off a terminal only lines are written, whatever their length, so that a log stays readable. What
    is under way for longer than a minute writes how far it is, once a minute.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._is_live = can_show_bars(console)
        self._remaining: Remaining | None = None
        self._live: Live | None = None
        self._bars: list[Bars] = []

    def stage(self, title: str) -> None:
        """Write the step with the time since the start."""
        seconds = self._clock() - self._started
        self._write(Text(f"{seconds:7.1f} s", style="dim"), Text(printable(title), style="bold"))

    def result(self, text: str) -> None:
        """Write what a step found out, below its line."""
        self._write(Text(""), Text(printable(text)))

    def upcoming(self, text: str) -> None:
        """Write what comes next, and how long the whole run takes from now on."""
        left = "" if self._remaining is None else f"; {time_left(self._remaining())}"
        self._write(Text(""), Text(printable(f"next: {text}{left}"), style="dim"))

    @contextmanager
    def whole(self, remaining: Remaining) -> Iterator[None]:
        """Keep a line at the bottom with the time so far and the time left."""
        self._remaining = remaining
        try:
            if not self._is_live:
                yield
                return
            with Live(
                get_renderable=self._picture,
                console=self._console,
                refresh_per_second=_REFRESHES,
                transient=True,
            ) as self._live:
                yield
        finally:
            self._remaining = self._live = None

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        """Show a bar that disappears when its work is done; in a log, a line a minute."""
        if not self._is_live:
            yield self._line_a_minute(description, total)
            return
        columns = _columns(known=total is not None)
        bars = Bars(
            *columns, console=self._console, transient=True, expand=True,
            refresh_per_second=_REFRESHES,
        )  # fmt: skip
        task = bars.add_task(printable(description), total=total, detail="")

        def advance(amount: int = 1, detail: str = "") -> None:
            bars.update(task, advance=amount, detail=printable(detail))

        if self._live is None:
            with bars:
                yield advance
            return
        self._bars.append(bars)
        self._live.refresh()  # at once, however short the work is
        try:
            yield advance
        finally:
            self._bars.remove(bars)

    def _line_a_minute(self, description: str, total: int | None) -> Advance:
        """Return what counts the units of a bar and writes how far they are, now and then."""
        done, told = 0, self._clock()

        def advance(amount: int = 1, detail: str = "") -> None:
            nonlocal done, told
            done += amount
            if (now := self._clock()) - told < _SECONDS_BETWEEN or done == total:
                return  # what is done is told by the step itself
            told = now
            so_far = f"{done:,}" if total is None else f"{done:,} of {total:,}"
            parts = [f"{description}: {so_far}", detail]
            left = "" if self._remaining is None else f"; {time_left(self._remaining())}"
            line = printable(", ".join(filter(None, parts)) + left)
            self._write(Text(""), Text(line, style="dim"))

        return advance

    def _picture(self) -> RenderableType:
        """Return the bars under way, and below them the line of the whole."""
        so_far = duration(round(self._clock() - self._started))
        left = "" if self._remaining is None else time_left(self._remaining())
        line = Text(f"whole run: {so_far}, {left}", style="cyan", overflow="ellipsis", no_wrap=True)
        return Group(*self._bars, Padding(line, (0, 0, 0, _INDENT)))

    def _write(self, head: Text, text: Text) -> None:
        """Write a line; where it is too long for a terminal, it goes on below its own beginning."""
        if not self._is_live:
            line = Text.assemble(_widened(head), text)
            self._console.print(line, soft_wrap=True, highlight=False)
            return
        table = Table.grid(Column(width=_INDENT - 2), Column(overflow="fold"), padding=(0, 2, 0, 0))
        table.add_row(head, text)
        self._console.print(table, highlight=False)


def default_progress() -> Progress:
    """Return a display on standard error in a terminal or notebook, and a silent one elsewhere."""
    notebook = Console()
    if notebook.is_jupyter:
        return ConsoleProgress(notebook)
    terminal = Console(stderr=True)
    return ConsoleProgress(terminal) if terminal.is_terminal else SILENT


def can_show_bars(console: Console) -> bool:
    """Return whether what is written can be replaced: in a terminal, or in a notebook.

    A notebook needs ipywidgets for that; without them rich would warn at each step.
    """
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal


def _columns(*, known: bool) -> tuple[ProgressColumn, ...]:
    """Return what a bar consists of; on narrow terminals the last column gives way."""
    plain = (
        TextColumn(" " * (_INDENT - 1)),
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
    )
    detail = TextColumn(
        "{task.fields[detail]}",
        markup=False,
        table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1),
    )
    if not known:
        return (*plain, detail)
    counted = (BarColumn(bar_width=12), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    return (*plain, *counted, TextColumn("left"), detail)


def _widened(head: Text) -> Text:
    padded = head.copy()
    padded.pad_right(_INDENT - len(head))
    return padded
