"""The progress of a run as lines of JSON, for programs that start it.

Every line is one object with `event` and `seconds` since the start:

- `stage`: a step begins; `title`.
- `result`: what the step under way found out; `text`.
- `next`: what comes next; `text`, and `seconds_left` in all, null where nobody can say.
- `progress`: `done` of `total` units of `title` (null: nobody knows), at most one a second.
- `end`: `exit_code`, `verdict`, and the paths `output`, `report` and, where it ships, `artifact`.
- `error`: `exit_code`, `type` and `message` of what ended it, and as `end` where there is a report.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from compressor.errors import EnvironmentMismatch, missing_package
from compressor.machine.memory import is_out_of_memory
from compressor.progress import Advance, Remaining

if TYPE_CHECKING:
    from compressor.errors import CompressorError
    from compressor.measurements import RunReport

_SECONDS_BETWEEN = 1.0  # lines about one bar


class JsonProgress:
    """A `Progress` that writes a line of JSON to `stream` for whatever it is told."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._started = clock()
        self._remaining: Remaining | None = None
        self._has_ended = False

    def stage(self, title: str) -> None:
        """Write that a step begins."""
        self.write("stage", title=title)

    def result(self, text: str) -> None:
        """Write what a step found out."""
        self.write("result", text=text)

    def upcoming(self, text: str) -> None:
        """Write what comes next."""
        left = None if self._remaining is None else self._remaining()
        self.write("next", text=text, seconds_left=None if left is None else round(left, 1))

    @contextmanager
    def whole(self, remaining: Remaining) -> Iterator[None]:
        """Know, for the length of a block, what the run has left."""
        self._remaining = remaining
        try:
            yield
        finally:
            self._remaining = None

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        """Write how far a bar is, now and then, and in the end."""
        done = 0
        said = (self._clock(), 0)

        def advance(amount: int = 1, detail: str = "") -> None:
            nonlocal done, said
            done += amount
            now = self._clock()
            if now - said[0] >= _SECONDS_BETWEEN:
                said = (now, done)
                told = {"detail": detail} if detail else {}
                self.write("progress", title=description, done=done, total=total, **told)

        yield advance
        if 0 < done != said[1]:
            self.write("progress", title=description, done=done, total=total)

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Write in the end of a block what ended it, unless that was written already.

        Such as a bug of ours, or memory or a package that is not there.
        """
        try:
            yield
        finally:
            error = sys.exc_info()[1]
            if error is not None and not self._has_ended:
                known = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
                code = EnvironmentMismatch.exit_code if known or is_out_of_memory(error) else 1
                told = str(known or error) or type(error).__name__
                self.write("error", exit_code=code, type=type(error).__name__, message=told)

    def ended(self, report: RunReport, directory: Path | None) -> None:
        """Write that a run ended as its recipe wanted."""
        self.write("end", exit_code=0, **_paths(report, directory))

    def ended_by(self, error: CompressorError, directory: Path | None) -> None:
        """Write what ended a run, or kept it from beginning."""
        told = {} if error.report is None else _paths(error.report, directory)
        kind = type(error).__name__
        self.write("error", exit_code=error.exit_code, type=kind, message=str(error), **told)

    def stopped_by(self, stop: BaseException, exit_code: int) -> None:
        """Write that Ctrl-C or SIGTERM ended a run; its notes say how far it came."""
        told = getattr(stop, "__notes__", ["Stopped; run the same command again to resume"])[-1]
        self.write("error", exit_code=exit_code, type=type(stop).__name__, message=told)

    def write(self, event: str, **facts: object) -> None:
        """Write one line, at once."""
        self._has_ended |= event in ("end", "error")
        line = {"event": event, "seconds": round(self._clock() - self._started, 3), **facts}
        # Half of a surrogate pair, as a file's name may hold, is no JSON either.
        text = json.dumps(line, ensure_ascii=True, allow_nan=False)
        self._stream.write(text + "\n")
        self._stream.flush()


def _paths(report: RunReport, directory: Path | None) -> dict[str, object]:
    folder = Path() if directory is None else directory
    ships = report.verdict == "passed"
    return {
        "verdict": report.verdict,
        "output": str(folder),
        "report": str(folder / "report.json"),
        **({"artifact": str(folder / "artifact")} if ships else {}),
    }
