"""Tells whether the cells of a csv or tsv file are in quotes, from the file, or refuses to guess.

Two habits exist. Files such as GLUE's quote nothing: a quote is a character of the text. Writers
such as pandas put a cell in quotes when a separator, a quote or an end of line is in it, and double
the quotes inside. Reading one as the other changes texts, or joins rows, without any sign of it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from compressor.data.settings import Quoting
from compressor.errors import RecipeError
from compressor.setting_errors import show


@dataclass
class _Plain:
    """The file read without quotes: whether every line has as many cells as the header."""

    separator: str
    num_cells: int = 0
    is_even: bool = True
    begun: int = 0  # cells that begin with a quote
    wrapped: int = 0  # of them, those that end with one too
    open: int = 0  # further cells that hold one
    header_is_wrapped: bool = False
    first: tuple[int, str] | None = None  # line and cell of the first quote, a wrapped one if any

    def read(self, number: int, line: str) -> None:
        bare = line.rstrip("\r\n")
        if not bare:
            return
        is_header = not self.num_cells
        num_cells = bare.count(self.separator) + 1
        self.num_cells = self.num_cells or num_cells
        self.is_even = self.is_even and num_cells == self.num_cells
        if '"' not in bare:
            return
        for cell in bare.split(self.separator):
            self.begun += cell.startswith('"')
            if len(cell) > 1 and cell[0] == cell[-1] == '"':
                self.header_is_wrapped = self.header_is_wrapped or is_header
                self.first = self.first if self.wrapped else (number, cell)
                self.wrapped += 1
            elif '"' in cell:
                self.first = self.first or (number, cell)
                self.open += 1


@dataclass
class _Quoted:
    """The file read as a csv writer's, record by record."""

    separator: str
    num_cells: int = 0
    is_even: bool = True  # every record has as many cells as the header
    is_broken: bool = False  # a quote stands where none may
    is_loose: bool = False  # a cell without quotes around it holds one, which no writer leaves so
    is_open: bool = False  # a cell in quotes goes on in the next line
    record: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        cell = rf'(?:"[^"]*(?:""[^"]*)*"|[^"\r\n{self.separator}]*)'
        self._strict = re.compile(rf"{cell}(?:{self.separator}{cell})*(?:\r?\n)?")

    @property
    def is_written(self) -> bool:
        """Return whether a csv writer can have written all that was read."""
        return not (self.is_broken or self.is_loose)

    def read(self, line: str) -> None:
        if self.is_broken:
            return
        if not self.is_open and '"' not in line:
            if line.rstrip("\r\n"):
                self._count(line.count(self.separator) + 1)
            return
        self.record.append(line)
        self.is_open ^= line.count('"') % 2 == 1
        if not self.is_open:
            self.close()

    def close(self) -> None:
        """Judge the lines read since the last record ended; at the end of the file, too."""
        record, self.record = self.record, []
        self.is_loose = self.is_loose or (
            bool(record) and self._strict.fullmatch("".join(record)) is None
        )
        try:
            for fields in csv.reader(record, delimiter=self.separator, strict=True):
                self._count(len(fields))
        except csv.Error:
            self.is_broken = True

    def _count(self, num_cells: int) -> None:
        self.num_cells = self.num_cells or num_cells
        self.is_even = self.is_even and num_cells == self.num_cells


def quotes_of_csv(name: str, lines: Iterable[str]) -> Quoting:
    """Return `csv`, which is what a csv file is; one that no csv writer writes is refused.

    Raises `RecipeError` where some cells begin with a quote and others hold one without beginning
    with it. What is no csv at all is left to the reader, which names the line.
    """
    plain, quoted = _read_both(lines, ",")
    if plain.first is None or quoted.is_written or quoted.is_broken or not plain.begun:
        return "csv"
    raise _undecided(name, plain)


def quotes_of_tsv(name: str, lines: Iterable[str]) -> Quoting:
    """Return `csv` where only a csv writer can have written the lines, `none` where it cannot.

    A file without quotes is read alike both ways. Raises `RecipeError` where both are possible.
    """
    plain, quoted = _read_both(lines, "\t")
    if plain.first is None:
        return "none"
    is_quoted = quoted.is_written and quoted.is_even
    if is_quoted and (plain.header_is_wrapped or not plain.is_even):
        return "csv"  # names of columns have no quotes of their own
    if not plain.is_even:
        return "none"  # neither fits, and reading names the uneven line
    # Writers put every cell with a quote into quotes. A few cells wholly in quotes do not speak
    # against a file whose other quotes stand anywhere; many do, whatever is wrong with the others.
    if not is_quoted and plain.open > plain.wrapped:
        return "none"
    raise _undecided(name, plain)


def _read_both(lines: Iterable[str], separator: str) -> tuple[_Plain, _Quoted]:
    plain, quoted = _Plain(separator), _Quoted(separator)
    for number, line in enumerate(lines, start=1):
        plain.read(number, line)
        quoted.read(line)
    quoted.close()
    return plain, quoted


def _undecided(name: str, plain: _Plain) -> RecipeError:
    number, cell = plain.first or (1, "")
    return RecipeError(
        f"{name}:{number}: {show(cell)} may be a text with quotes in it, or a cell that a csv "
        f"writer such as pandas put in quotes, and the file does not tell; set `quoting: none` or "
        f"`quoting: csv` beside its path (`compress init --quoting`)"
    )
