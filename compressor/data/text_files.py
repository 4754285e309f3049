"""Reads csv, tsv and JSON lines, strictly: a row that does not fit is an error with its line."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.data.file_kinds import refuse_other_kinds
from compressor.data.quotes import quotes_of_csv, quotes_of_tsv
from compressor.data.row_files import Lines, rows_for
from compressor.data.settings import FileFormat, Quoting
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.setting_errors import each_key_once, show
from compressor.tasks.table import BadRows, Table, choose_columns, require_each_once
from compressor.words import few_of

_LONGEST_CELL = 1 << 30  # characters
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}

_Records = Iterator[tuple[int, list[str]]]


def read_text_file(
    path: Path,
    file_format: FileFormat,
    required: Sequence[str],
    optional: Sequence[str],
    *,
    quoting: Quoting | None = None,
) -> Table:
    """Read columns of a csv, tsv or JSON lines file; raises as `readers.read_table` does."""
    if file_format == "jsonl":
        return _read_json(path, required, optional)
    return _read_delimited(path, file_format, quoting, required, optional)


def read_text_header(
    path: Path, file_format: FileFormat, *, quoting: Quoting | None = None
) -> list[str]:
    """Return the column names, of JSON the first row's keys (none in an empty file)."""
    if file_format != "jsonl":
        # The cells below matter for a header in quotes alone; looking at them takes longer.
        if quoting is None and file_format == "csv":
            quoting = "csv"
        elif quoting is None and '"' not in _first_line(path):
            quoting = "none"
        return _header(path, file_format, _delimited_records(path, file_format, quoting))
    bad = BadRows()
    first = next(_json_records(path, bad), None)
    bad.check()
    return list(first[1]) if first else []


@contextmanager
def _text_problems_named(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}:{_first_bad_line(path)}: not UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from error
    except OSError as error:
        raise EnvironmentMismatch(f"{path}: cannot be read ({error.strerror or error})") from error


def _first_bad_line(path: Path) -> int:
    # A text stream decodes in blocks, so its error does not know the line.
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends; a carriage return alone ends none."""
    refuse_other_kinds(path)
    with _text_problems_named(path), path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, line in enumerate(stream, start=1):
            if "\0" in line:
                raise RecipeError(
                    f"{path}:{number}: holds a NUL character, so the file is damaged or in another "
                    f"encoding; convert it to UTF-8"
                )
            yield line


def _first_line(path: Path) -> str:
    return next(text_lines(path), "")


def _delimited_records(path: Path, file_format: FileFormat, quoting: Quoting | None) -> _Records:
    """Yield the first line and the fields of each record, header first; blank lines are skipped."""
    separator = _SEPARATORS[file_format]
    csv.field_size_limit(_LONGEST_CELL)  # 128 KiB otherwise, which a long document passes
    if quoting is None:
        decide = quotes_of_csv if file_format == "csv" else quotes_of_tsv
        quoting = decide(str(path), text_lines(path))
    if quoting == "none":
        return _plain_records(path, separator)
    return _quoted_records(path, separator)


def _plain_records(path: Path, separator: str) -> _Records:
    for number, text in enumerate(text_lines(path), start=1):
        if bare := text.rstrip("\r\n"):
            yield number, bare.split(separator)


def _quoted_records(path: Path, separator: str) -> _Records:
    reader = csv.reader(text_lines(path), delimiter=separator, strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise RecipeError(
            f"{path}:{start}: not valid csv ({error}); check the quotes of this row, or set "
            f"`quoting: none` if no cell of the file is in quotes (name it .tsv if tabs separate "
            f"its columns)"
        ) from error


def _header(path: Path, file_format: FileFormat, records: _Records) -> list[str]:
    _, header = next(records, (0, []))
    if not header:
        raise RecipeError(f"{path}: the file is empty; its first line must name the columns")
    if any("\r" in name for name in header):
        raise RecipeError(
            f"{path}:1: its lines end with a carriage return alone; convert them to line feeds"
        )
    require_each_once(f"{path}:1", header)
    _refuse_other_separator(path, file_format, header)
    return header


def _refuse_other_separator(path: Path, file_format: FileFormat, header: Sequence[str]) -> None:
    """Refuse a header of one name that holds what usually stands between names."""
    own = _SEPARATORS[file_format]
    found = [mark for mark in _NAMES if mark != own and mark in header[0]]
    if len(header) > 1 or not found:
        return
    other = max(found, key=header[0].count)
    way = {"\t": "set `format: tsv`", ",": "set `format: csv`"}.get(
        other, f"write the file again with {_NAMES[own]}"
    )
    raise RecipeError(
        f"{path}:1: the header is {show(header[0])}, whose names seem to be separated by "
        f"{_NAMES[other]}, and a {file_format} file has {_NAMES[own]} there; {way}"
    )


def _read_delimited(
    path: Path,
    file_format: FileFormat,
    quoting: Quoting | None,
    required: Sequence[str],
    optional: Sequence[str],
) -> Table:
    records = _delimited_records(path, file_format, quoting)
    header = _header(path, file_format, records)
    chosen = choose_columns(str(path), header, required, optional)
    position = {name: index for index, name in enumerate(header)}
    places = [position[name] for name in chosen]
    rows = rows_for(path.stat().st_size, chosen)
    lines = Lines()
    bad = BadRows()
    for line, fields in records:
        if len(fields) != len(header):
            bad.add(f"{path}:{line}: has {len(fields)} fields, the header names {len(header)}")
            continue
        lines.add(line)
        rows.add([fields[place] for place in places])
    bad.check()
    return Table(str(path), rows.columns(), lines.all(), path.parent)


def _json_records(path: Path, bad: BadRows) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Yield the line and the object of each row; rows of one JSON document have no lines."""
    first = True
    lines = text_lines(path)
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        if first and path.suffix.lower() == ".json" and text.lstrip().startswith("["):
            yield from _array_records(path, itertools.chain([text], lines), bad)
            return
        if first and path.suffix.lower() == ".json" and not _is_row(text):
            yield from _document_records(path, itertools.chain([text], lines), bad)
            return
        first = False
        try:
            row = _parse_json(text)
        except (ValueError, RecursionError) as error:
            bad.add(f"{path}:{number}: not one JSON object ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            bad.add(f"{path}:{number}: each line must be a JSON object, got {show(row)}")


def _array_records(
    path: Path, lines: Iterable[str], bad: BadRows
) -> Iterator[tuple[None, dict[str, Any]]]:
    try:
        rows = _parse_json("".join(lines))
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{path}: begins with '[' and is not one JSON array ({error}); write one object a line"
        ) from error
    for position, row in enumerate(rows):
        if isinstance(row, dict):
            yield None, row
        else:
            bad.add(f"{path}: row {position} of the array must be an object, got {show(row)}")


def _is_row(line: str) -> bool:
    """Return whether the first line is a row, and neither begins nor is one object of all rows."""
    try:
        row = _parse_json(line)
    except (ValueError, RecursionError):
        return not line.rstrip().endswith(("{", "[", ","))
    rows = row.get("data") if isinstance(row, dict) and row.keys() <= {"data", "version"} else None
    return not (isinstance(rows, list) and rows and isinstance(rows[0], dict))


def _document_records(
    path: Path, lines: Iterable[str], bad: BadRows
) -> Iterator[tuple[None, dict[str, Any]]]:
    """Yield the rows of one object: those of SQuAD's layout, or of the list `data` in it."""
    try:
        content = _parse_json("".join(lines))
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{path}: begins with {{ and is not one JSON object ({error}); write one object a line"
        ) from error
    if articles := _articles(content):
        for row in _squad_rows(path, articles):
            yield None, row
        return
    rows = content.get("data")
    if not isinstance(rows, list):
        raise RecipeError(
            f"{path}: is one object over several lines ({few_of(list(content))}), and rows are "
            f"objects in one array, or one on each line; write it so"
        )
    for position, row in enumerate(rows):
        if isinstance(row, dict):
            yield None, row
        else:
            bad.add(f"{path}: row {position} of data must be an object, got {show(row)}")


def _articles(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the articles of a document in SQuAD's layout; none of another one."""
    found = content.get("data")
    are_articles = isinstance(found, list) and all(
        isinstance(item, dict) and isinstance(item.get("paragraphs"), list) for item in found
    )
    return found if are_articles and found else []


def _squad_rows(path: Path, articles: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield question, context and answers of each question, as the Hub's rows of SQuAD have them.

    Ref: Rajpurkar et al. 2016, arXiv:1606.05250.
    """
    for article in articles:
        for paragraph in article["paragraphs"]:
            try:
                for asked in paragraph["qas"]:
                    row = {
                        "id": asked.get("id"),
                        "title": article.get("title"),
                        "question": asked["question"],
                        "context": paragraph["context"],
                    }
                    # Where nothing is said of answers, none is known; that is not "no answer".
                    if asked.get("is_impossible") or "answers" in asked:
                        answers = [] if asked.get("is_impossible") else asked["answers"]
                        row["answers"] = {
                            "text": [item["text"] for item in answers],
                            "answer_start": [item["answer_start"] for item in answers],
                        }
                    yield row
            except (KeyError, TypeError, AttributeError) as error:
                raise RecipeError(
                    f"{path}: a paragraph of '{article.get('title')}' is not in SQuAD's layout, "
                    f"qas of question and answers of text and answer_start ({error!r})"
                ) from error


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=each_key_once)


def _read_json(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    wanted = list(dict.fromkeys((*required, *optional)))
    present: dict[str, None] = {}  # the columns in the order they appear
    lines = Lines()
    rows = rows_for(path.stat().st_size, wanted, any_values=True)
    is_empty = True
    bad = BadRows()
    for line, row in _json_records(path, bad):
        present.update(dict.fromkeys(row))
        if line is not None:
            lines.add(line)
        rows.add([row.get(name) for name in wanted])
        is_empty = False
    bad.check()
    chosen = wanted if is_empty else choose_columns(str(path), list(present), required, optional)
    columns = rows.columns()
    return Table(
        str(path),
        {name: columns[name] for name in chosen},
        lines.all() if len(lines) else None,
        path.parent,
    )
