"""The errors of a request that is wrong, and of files or a machine that will not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .words import noun_for

_MOST_LINES = 40  # of mistakes that a message shows
_LONGEST_LINE = 1500  # characters


class CompressorError(Exception):
    """The root of the tree: catch this to catch everything `compressor` raises on purpose."""

    exit_code: ClassVar[int] = 1
    # The RunReport of the run that stopped, when there was one; it lies on disk too.
    report: Any = None


class RecipeError(CompressorError):
    """The request is wrong or does not fit what it names; `mistakes` has a line for each mistake.

    The message is what a person can read of them: the first ones, and how many more there are,
    `more` that were found and are not in `mistakes` counted in.
    """

    exit_code = 2
    # What could be read of a recipe with mistakes, a Recipe, so that the rest of it can be checked.
    readable: Any = None

    def __init__(self, mistakes: str | Sequence[str], *, more: int = 0) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        self.more = more
        lines = [_readable(line) for line in self.mistakes[:_MOST_LINES]]
        if hidden := len(self.mistakes) - len(lines) + more:
            lines.append(f"... and {hidden:,} more {noun_for(hidden, 'mistake')} like these")
        super().__init__("\n".join(lines))


class EnvironmentMismatch(CompressorError):
    """Something the recipe asks for is not available on this machine; a line for each problem."""

    exit_code = 3

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def _readable(line: str) -> str:
    """Leave the middle out of a line that no one would read: its place and its end stay."""
    if len(line) <= _LONGEST_LINE:
        return line
    return f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 2 :]}"
