"""What a run shows in a terminal and in a log file."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from compressor.cli import _explained
from compressor.console import ConsoleProgress, default_progress
from compressor.errors import RecipeError
from compressor.progress import SILENT, rough

LONG = "accuracy 89.45% on 872 rows, 23.1 MB: fell by 0.23 points, 1 point allowed, 0.77 left"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(*, terminal: bool, width: int = 80) -> tuple[ConsoleProgress, io.StringIO, Clock]:
    """Return a display, what it writes to, and the clock that it reads."""
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=terminal, width=width, color_system=None)
    return ConsoleProgress(console, clock=clock), stream, clock


def test_a_log_has_a_line_for_each_step_and_result_with_the_time_so_far():
    progress, stream, clock = shown(terminal=False)
    clock.now = 12.34
    progress.stage("passes[0] (finetune)")
    progress.result(LONG)
    assert stream.getvalue() == f"   12.3 s  passes[0] (finetune)\n           {LONG}\n"


def test_a_bar_of_less_than_a_minute_leaves_nothing_in_a_log():
    progress, stream, clock = shown(terminal=False)
    with progress.whole(lambda: 90.0), progress.bar("training", 3) as advance:
        clock.now = 59.9
        advance(2, "loss 0.1")
        clock.now = 200.0
        advance(1, "loss 0.1")  # all of it: the step says what came of it
    assert stream.getvalue() == ""


def test_a_log_tells_once_a_minute_how_far_a_bar_is():
    progress, stream, clock = shown(terminal=False)
    with progress.whole(lambda: 3600.0 - clock.now), progress.bar("training", 12_000) as advance:
        for second in range(1, 180):
            clock.now = float(second)
            advance(20, f"loss {1 / second:.3f}")
    assert stream.getvalue() == (
        "           training: 1,200 of 12,000, loss 0.017; about 59 min left\n"
        "           training: 2,400 of 12,000, loss 0.008; about 58 min left\n"
    )


def test_a_log_tells_of_a_bar_outside_of_a_run_and_without_a_known_end():
    progress, stream, clock = shown(terminal=False)
    with progress.bar("reading", None) as advance:
        clock.now = 61.0
        advance(5)
    assert stream.getvalue() == "           reading: 5\n"


def test_what_comes_next_is_told_with_the_time_that_the_whole_run_has_left():
    progress, stream, _ = shown(terminal=False)
    with progress.whole(lambda: 330.0):
        progress.upcoming("passes[1] (trim_vocabulary)")
    assert stream.getvalue() == ("           next: passes[1] (trim_vocabulary); about 6 min left\n")


def test_an_estimate_that_nobody_can_give_is_unknown():
    progress, stream, _ = shown(terminal=False)
    with progress.whole(lambda: None):
        progress.upcoming("export")
    assert stream.getvalue() == "           next: export; time left unknown\n"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_a_bar_and_below_it_the_whole_run(width: int):
    progress, stream, clock = shown(terminal=True, width=width)
    clock.now = 200.0
    with progress.whole(lambda: 340.0), progress.bar("training", 10) as advance:
        advance(4, "loss 0.1")
        progress.result("found")  # what is live is drawn anew below it
    _, bar, whole = stream.getvalue().partition("found")[2].splitlines()[:3]
    assert re.search(r"training .* 4/10 .* left loss 0.1", bar)
    assert whole.strip().startswith("whole run: 3 min 20 s, about 6 min left")
    assert len(bar) <= width


def test_a_line_that_is_too_long_for_a_terminal_goes_on_below_its_beginning():
    progress, stream, _ = shown(terminal=True, width=60)
    progress.result(LONG)
    first, second = stream.getvalue().splitlines()
    assert (first[:19], second[:11]) == (" " * 11 + "accuracy", " " * 11)
    assert second[11] != " "


def test_brackets_are_no_markup():
    progress, stream, _ = shown(terminal=True)
    progress.stage("passes[0] (finetune) [bold]")
    assert "passes[0] (finetune) [bold]" in stream.getvalue()


def test_what_a_file_says_cannot_steer_the_terminal():
    progress, stream, _ = shown(terminal=False)
    progress.stage("labels \x1b[2J")
    progress.result("predicts '\x1b]0;title\x07'")
    progress.upcoming("\x9b1m")
    assert not {"\x1b", "\x07", "\x9b"}.intersection(stream.getvalue())


def test_an_error_that_quotes_a_file_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]):
    assert _explained(RecipeError("r.yaml:1: label '\x1b[2J'")) == 2
    assert "r.yaml:1: label '\ufffd[2J'" in capsys.readouterr().err


def test_nothing_is_shown_where_there_is_neither_terminal_nor_notebook(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert default_progress() is SILENT


def test_a_terminal_is_shown_a_bar_without_being_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    assert isinstance(default_progress(), ConsoleProgress)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "a few seconds"),
        (28, "about 30 s"),
        (200, "about 3 min"),
        (5500, "about 1.5 h"),
    ],
)
def test_an_estimate_is_no_finer_than_it_deserves(seconds: float, words: str):
    assert rough(seconds) == words
