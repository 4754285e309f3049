"""Looks at the data files of a recipe before anything long starts."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from compressor.data.arrays import count_rows
from compressor.data.judged import check_headers
from compressor.data.media_folder import media_files
from compressor.data.readers import check_folder, parquet_rows, read_header, read_table
from compressor.data.settings import DataSettings, Quoting, SplitSource
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.paths import ABSENT, unreadable
from compressor.tasks.columns import Columns
from compressor.tasks.table import choose_columns

_DIGITS_ROWS = {"train": 1297, "test": 500, None: 1797}
_CHUNK_BYTES = 1 << 20
_READ_AT_ONCE = 1 << 25  # bytes


def check_files(
    settings: DataSettings,
    *,
    labelled: bool = True,
    keep: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Check that each local file exists and that its header has the columns, reading no more rows.

    As `check_split` for every split. Raises `EnvironmentMismatch` listing every missing file and
    folder, otherwise `RecipeError` listing every wrong header.
    """
    absent: list[str] = []
    mistakes: list[str] = []
    for name in settings.given:
        try:
            check_split(settings, name, labelled=labelled, keep=(keep or {}).get(name, ()))
        except EnvironmentMismatch as error:
            absent.extend(error.problems)
        except RecipeError as error:
            mistakes.extend(error.mistakes)
    if absent:
        raise EnvironmentMismatch(absent)
    if mistakes:
        raise RecipeError(mistakes)


def check_split(
    settings: DataSettings,
    name: str,
    *,
    labelled: bool = True,
    keep: Sequence[str] = (),
    input_column: str | None = None,
) -> None:
    """Check the file or folder of the split called `name`, reading no more than a header.

    The input column is checked when the settings name it, or when `input_column` says what the
    task reads. Labels must be in search and certification unless `labelled` is false; the other
    splits may go without. `keep` names further columns that it must have.

    Raises `EnvironmentMismatch` when it is missing or damaged, `RecipeError` for a wrong header.
    """
    source = settings.given[name]
    with _placed(name, source):
        if source.hub is not None:
            check_folder(source)
            return
        if source.qrels is not None:
            check_headers(source, read_header)
            return
        _require_file(source)
        columns = _input_columns(settings, source, input_column)
        label = settings.label_columns(source)
        must_label = labelled and name in ("search", "certification")
        # Of JSON a row may leave a key out, and the first one is all that is read here.
        is_jsonl = source.path is not None and source.file_format == "jsonl"
        kept = () if is_jsonl else [*keep, *([settings.group] if settings.group else [])]
        required = [*columns, *kept, *(label if must_label else ())]
        _check_header(source, required, label)


def check_present(settings: DataSettings, name: str) -> None:
    """Check that the file or folder of the split called `name` is there, whatever its columns are.

    Raises as `check_split` does.
    """
    source = settings.given[name]
    with _placed(name, source):
        if source.hub is not None:
            check_folder(source)
            return
        _require_file(source)
        _check_header(source, (), ())


def _require_file(source: SplitSource) -> None:
    if source.path is not None and (reason := unreadable(source.path)) is not None:
        raise EnvironmentMismatch(f"{source.path} {reason}; paths are relative to the recipe")


@contextmanager
def _placed(name: str, source: SplitSource) -> Iterator[None]:
    """Put the key of the split called `name` before what is raised in this block."""
    try:
        yield
    except EnvironmentMismatch as error:
        found = source.folder
        origin = "hub" if source.hub is not None else found[0].nouns if found else "path"
        key = "" if source.qrels is not None else f"{origin}: "
        raise EnvironmentMismatch(
            [
                problem if problem.startswith("data.") else f"data.{name}.{key}{problem}"
                for problem in error.problems
            ]
        ) from error
    except RecipeError as error:
        raise RecipeError([f"data.{name}: {mistake}" for mistake in error.mistakes]) from error


def _input_columns(
    settings: DataSettings, source: SplitSource, input_column: str | None
) -> tuple[str, ...]:
    if input_column is not None:
        return settings.input_columns(source, input_column)
    own = source.text or source.image or source.audio
    named = own or settings.text or settings.image or settings.audio or ()
    return (named,) if isinstance(named, str) else named


def check_labels(
    settings: DataSettings, columns: Columns, labels: Sequence[str], needed: Container[str]
) -> None:
    """Check the labels of the local files of the splits in `needed` against the checkpoint's.

    A file of more than 32 MB is passed over, so that the answer is there at once. Raises
    `RecipeError` listing every mistake, `EnvironmentMismatch` when a file is damaged.
    """
    mistakes: list[str] = []
    for name, source in settings.given.items():
        named = settings.label_columns(source)
        if name not in needed or source.path is None or unreadable(source.path) is not None:
            continue
        if source.path.stat().st_size > _READ_AT_ONCE:
            continue
        try:
            if set(named) <= set(read_header(source)):
                columns.require_label_columns(named)
                table = read_table(source, named, ()).with_sets(named)
                column = settings.label_column(source)
                columns.labels(table, column, labels, settings.label_names)
        except RecipeError as error:
            mistakes.extend(
                # What is wrong with a key of `data` is no matter of this split.
                mistake if mistake.startswith("data.") else f"data.{name}: {mistake}"
                for mistake in error.mistakes
            )
    if mistakes:
        raise RecipeError(list(dict.fromkeys(mistakes)))


def most_rows(source: SplitSource) -> int | None:
    """Return a number of rows that `source` surely does not exceed; None when it is not known.

    It is found without reading values: lines are counted, of which a quoted cell may take several.

    Raises `EnvironmentMismatch` when a parquet file is damaged.
    """
    limits = [source.max_rows]
    if source.sklearn is not None:
        limits.append(_DIGITS_ROWS[source.split])
    elif (packaged := source.packaged_file) is not None:
        limits.append(_count_lines(packaged) - 1)
    elif (found := source.folder) is not None:
        media, folder = found
        limits.append(len(media_files(folder, media)))
    elif source.path is None or unreadable(source.path) is not None:
        pass
    elif source.file_format == "parquet":
        limits.append(parquet_rows(source.path))
    elif source.file_format == "npz":
        limits.append(count_rows(source.path))
    else:
        header = source.file_format in ("csv", "tsv")
        limits.append(_count_lines(source.path) - header)
    return min((limit for limit in limits if limit is not None), default=None)


def file_source(path: Path, quoting: Quoting | None = None) -> SplitSource:
    """Return the source for a data file that a command was given.

    Raises `EnvironmentMismatch` when there is no such file, `RecipeError` when its extension does
    not tell its format.
    """
    if (reason := unreadable(path)) is not None:
        why = "no such file" if reason == ABSENT else reason
        raise EnvironmentMismatch(
            f"{path}: {why}; give a csv, tsv, jsonl, parquet, conll or npz file"
        )
    try:
        return SplitSource(path=path, quoting=quoting)
    except ValidationError as error:
        raise RecipeError([f"{path}: {item['msg']}" for item in error.errors()]) from error


def _count_lines(path: Path) -> int:
    """Count the lines of a file, the last one with or without its end."""
    count, last = 0, b"\n"
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            # A carriage return ends a line too, where no line feed follows.
            count += chunk.count(b"\n") + chunk.count(b"\r") - chunk.count(b"\r\n")
            last = chunk[-1:]
    return count + (last not in b"\r\n")


def _check_header(source: SplitSource, required: Sequence[str], optional: Sequence[str]) -> None:
    header = read_header(source)
    if not header:
        raise RecipeError(f"{source.name}: has no rows")
    choose_columns(source.name, header, required, optional)
    # A file that is larger has rows, and counting them would take time.
    is_small = source.path is not None and source.path.stat().st_size <= _READ_AT_ONCE
    if is_small and most_rows(source) == 0:
        raise RecipeError(f"{source.name}: has no rows")
