"""Reads CoNLL files: one token a line, a blank line between sentences, the tag in the last column.

A sentence becomes one row. Columns stand between tabs or, in a file without tabs, between spaces.

Ref: Tjong Kim Sang & De Meulder 2003, W03-0419, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.data.row_files import Lines, rows_for
from compressor.data.text_files import text_lines
from compressor.errors import RecipeError
from compressor.setting_errors import show
from compressor.tasks.table import BadRows, Table, choose_columns
from compressor.words import counted

_DOCUMENT_STARTS = "-DOCSTART-"
_SPACES = re.compile(r"[ \t]+")
_WORDS = "text"  # what the first column is called
_TAGS = "label"  # what the last column is called, where there are two or more


@dataclass(frozen=True)
class _Token:
    """One line of a file: its fields; none on a line between sentences."""

    line: int
    fields: list[str]


def read_conll(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    """Read columns of a CoNLL file, each a list of texts for a sentence.

    The first column is `text`, the last one `label`; every column is also `column_1`, `column_2`
    and so on. Lines of `-DOCSTART-` are left out, and comments in a file with tabs: lines that
    begin with `#` and have no tab.

    Raises `EnvironmentMismatch` when the file is missing, `RecipeError` for a line with another
    number of columns than the first one, and for a column that is not there.
    """
    names = _columns_of(path)
    if not names:
        raise RecipeError(f"{path}: has no rows")
    chosen = choose_columns(str(path), list(names), required, optional)
    rows = rows_for(path.stat().st_size, chosen, any_values=True)
    lines = Lines()
    bad = BadRows()
    for sentence in _sentences(path, bad):
        lines.add(sentence[0].line)
        rows.add([[token.fields[names[name]] for token in sentence] for name in chosen])
    bad.check()  # of the first token there is a row now, or a mistake
    return Table(str(path), rows.columns(), lines.all(), path.parent)


def read_conll_header(path: Path) -> list[str]:
    """Return the names of the columns, of the first token; none in a file without tokens."""
    return list(_columns_of(path))


def _columns_of(path: Path) -> dict[str, int]:
    """Return the place of each column of the first token by its names; none without tokens."""
    first = next((token for token in _tokens(path) if token.fields), None)
    return {} if first is None else _names(len(first.fields))


def _sentences(path: Path, bad: BadRows) -> Iterator[list[_Token]]:
    """Yield the tokens of each sentence; `bad` gets those that are none."""
    sentence: list[_Token] = []
    width = 0
    for token in _tokens(path):
        width = width or len(token.fields)
        if not token.fields:
            if sentence:
                yield sentence
            sentence = []
        elif len(token.fields) != width:
            bad.add(
                f"{path}:{token.line}: has {counted(len(token.fields), 'column')}, the first token "
                f"of the file has {width}; each line is a word and its tags, between tabs or, in a "
                f"file without tabs, between spaces"
            )
        elif not token.fields[0]:
            bad.add(f"{path}:{token.line}: has no word, only {show(token.fields[-1])}")
        else:
            sentence.append(token)
    if sentence:
        yield sentence


def _names(width: int) -> dict[str, int]:
    """Return the place of each column by its names."""
    numbered = {f"column_{place + 1}": place for place in range(width)}
    return {_WORDS: 0, **({_TAGS: width - 1} if width > 1 else {}), **numbered}


def _tokens(path: Path) -> Iterator[_Token]:
    """Yield the tokens, and a token without fields for what stands between sentences."""
    has_tabs: bool | None = None  # until the first line that tells
    for number, line in enumerate(text_lines(path), start=1):
        bare = line.rstrip("\r\n")
        if "\r" in bare:
            raise RecipeError(
                f"{path}:{number}: its lines end with a carriage return alone; convert them to "
                f"line feeds"
            )
        is_comment = bare.startswith("#") and "\t" not in bare
        if _SPACES.split(bare.strip(" \t"))[0] in ("", _DOCUMENT_STARTS):
            yield _Token(number, [])
            continue
        if has_tabs is None and not is_comment:
            has_tabs = "\t" in bare
        if is_comment and (has_tabs or (has_tabs is None and _is_before_tabs(path, number))):
            continue
        yield _Token(number, bare.split("\t") if has_tabs else _SPACES.split(bare.strip(" ")))


def _is_before_tabs(path: Path, number: int) -> bool:
    """Return whether the first line behind `number` that begins with no `#` has a tab."""
    later = (line for place, line in enumerate(text_lines(path), start=1) if place > number)
    first = next((line for line in later if line.strip() and not line.startswith("#")), "")
    return "\t" in first
