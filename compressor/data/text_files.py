"""Reads csv, tsv and JSON lines, strictly: a row that does not fit is an error with its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.data.settings import FileFormat
from compressor.data.table import BadRows, Table, choose_columns, require_each_once
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.mistakes import show

_LONGEST_CELL = 1 << 30  # characters


def read_text_file(
    path: Path, file_format: FileFormat, required: Sequence[str], optional: Sequence[str]
) -> Table:
    """Read columns of a csv, tsv or JSON lines file; raises as `readers.read_table` does."""
    if file_format == "jsonl":
        return _read_json_lines(path, required, optional)
    return _read_delimited(path, file_format, required, optional)


def read_text_header(path: Path, file_format: FileFormat) -> list[str]:
    """Return the column names, of JSON lines the first row's keys (none in an empty file)."""
    if file_format != "jsonl":
        return _header(path, _delimited_records(path, file_format))
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


def _delimited_records(path: Path, file_format: FileFormat) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each record, header first; blank lines are skipped."""
    with _text_problems_named(path), path.open(encoding="utf-8-sig", newline="\n") as stream:
        if file_format == "tsv":
            for number, text in enumerate(stream, start=1):
                if bare := text.rstrip("\r\n"):
                    yield number, bare.split("\t")
            return
        csv.field_size_limit(_LONGEST_CELL)  # 128 KiB otherwise, which a long document passes
        reader = csv.reader(stream, strict=True)
        start = 1
        try:
            for fields in reader:
                if fields:
                    yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise RecipeError(
                f"{path}:{start}: not valid csv ({error}); check the quotes of this row, or name "
                f"the file .tsv if tabs separate its columns and nothing is quoted"
            ) from error


def _header(path: Path, records: Iterator[tuple[int, list[str]]]) -> list[str]:
    _, header = next(records, (0, []))
    require_each_once(f"{path}:1", header)
    if not header:
        raise RecipeError(f"{path}: the file is empty; its first line must name the columns")
    return header


def _read_delimited(
    path: Path, file_format: FileFormat, required: Sequence[str], optional: Sequence[str]
) -> Table:
    records = _delimited_records(path, file_format)
    header = _header(path, records)
    chosen = choose_columns(str(path), header, required, optional)
    columns: dict[str, list[Any]] = {name: [] for name in chosen}
    targets = [(header.index(name), values) for name, values in columns.items()]
    lines: list[int] = []
    bad = BadRows()
    for line, fields in records:
        if len(fields) != len(header):
            bad.add(f"{path}:{line}: has {len(fields)} fields, the header names {len(header)}")
            continue
        lines.append(line)
        for index, values in targets:
            values.append(fields[index])
    bad.check()
    return Table(str(path), columns, lines, path.parent)


def _json_records(path: Path, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    with _text_problems_named(path), path.open(encoding="utf-8-sig", newline="\n") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                bad.add(f"{path}:{number}: not one JSON object ({error})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                bad.add(f"{path}:{number}: each line must be a JSON object, got {show(row)}")


def _read_json_lines(path: Path, required: Sequence[str], optional: Sequence[str]) -> Table:
    wanted = (*required, *optional)
    present: dict[str, None] = {}  # the columns in the order they appear
    lines: list[int] = []
    rows: list[dict[str, Any]] = []
    bad = BadRows()
    for line, row in _json_records(path, bad):
        present.update(dict.fromkeys(row))
        lines.append(line)
        rows.append({name: row[name] for name in wanted if name in row})
    bad.check()
    chosen = choose_columns(str(path), list(present), required, optional) if rows else wanted
    columns = {name: [row.get(name) for row in rows] for name in chosen}
    return Table(str(path), columns, lines, path.parent)
