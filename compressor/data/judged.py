"""Reads queries, documents and relevance from three files, in the layout of BEIR's data sets.

Ref: Thakur et al. 2021, arXiv:2104.08663. `corpus.jsonl` and `queries.jsonl` have the keys `_id`,
`text` and, of documents, `title`; `qrels/test.tsv` the columns `query-id`, `corpus-id`, `score`.
The same columns in csv, tsv or parquet files do as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compressor.data.settings import SplitSource
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.setting_errors import show
from compressor.tasks.columns import text_problem
from compressor.tasks.retrieval import Corpus, Judged, relevance_of
from compressor.tasks.table import BadRows, Table
from compressor.words import few_of

_IDS = {
    "queries": ("_id", "id", "query_id", "query-id"),
    "corpus": ("_id", "id", "doc_id", "corpus-id"),
}
_QRELS = ("query-id", "corpus-id", "score")
_TEXT, _TITLE = "text", "title"

ReadHeader = Callable[[SplitSource], list[str]]
ReadTable = Callable[[SplitSource, Sequence[str], Sequence[str]], Table]


def check_headers(source: SplitSource, read_header: ReadHeader) -> None:
    """Check that the three files are there and have their columns.

    Raises `RecipeError` and `EnvironmentMismatch`, each mistake beginning with the file's key.
    """
    mistakes: list[str] = []
    absent: list[str] = []
    for key, file in source.tables.items():
        try:
            _columns(key, file, read_header(file))
        except RecipeError as error:
            mistakes += [f"{key}: {mistake}" for mistake in error.mistakes]
        except EnvironmentMismatch as error:
            absent += [f"{key}: {problem}" for problem in error.problems]
    if absent:
        raise EnvironmentMismatch(absent)
    if mistakes:
        raise RecipeError(mistakes)


def read_judged(source: SplitSource, read_header: ReadHeader, read: ReadTable) -> Table:
    """Return the queries that `qrels` names, in its order, as rows with what is relevant to each.

    Raises `RecipeError` for an id that stands twice or names nothing, an empty text, a grade that
    is no number, a query to which nothing is relevant, and for no rows; `EnvironmentMismatch` for a
    file that is missing or damaged.
    """
    check_headers(source, read_header)
    tables = source.tables
    queries = _texts("queries", tables["queries"], read_header, read)
    documents = _texts("corpus", tables["corpus"], read_header, read)
    table = read(tables["qrels"], _QRELS, ())
    grades = _grades(table, queries, documents)
    vain = [name for name, own in grades.items() if not own]
    if vain:
        raise RecipeError(
            f"{table.name}: no document is relevant to {few_of(vain)} (no score above 0), so no "
            f"model can find one; leave such queries out"
        )
    corpus = Corpus(documents, source.max_documents)
    judged = [Judged(queries[name], name, own, corpus) for name, own in grades.items()]
    return Table(table.name, {_TEXT: [item.text for item in judged]}, judged=judged)


def _columns(key: str, file: SplitSource, header: Sequence[str]) -> str:
    """Return the column of ids; raises `RecipeError` for a header without what is needed."""
    if key == "qrels":
        absent = [name for name in _QRELS if name not in header]
        if absent:
            raise RecipeError(
                f"{file.name}: no column {few_of(absent)}; it has {few_of(header) or 'none'}, and "
                f"BEIR's layout needs {', '.join(_QRELS)} in its first line"
            )
        return _QRELS[0]
    found = [name for name in _IDS[key] if name in header]
    if len(found) != 1 or _TEXT not in header:
        raise RecipeError(
            f"{file.name}: has the columns {few_of(header) or 'none'}; it needs {_TEXT} and one of "
            f"{', '.join(_IDS[key])}"
        )
    return found[0]


def _texts(key: str, file: SplitSource, read_header: ReadHeader, read: ReadTable) -> dict[str, str]:
    """Return texts by their ids, after their titles where they have some."""
    column = _columns(key, file, read_header(file))
    table = read(file, (column, _TEXT), (_TITLE,) if key == "corpus" else ())
    titles = table.columns.get(_TITLE, [None] * len(table))
    found: dict[str, str] = {}
    bad = BadRows()
    rows = zip(table.columns[column], table.columns[_TEXT], titles, strict=True)
    for row, (given, text, title) in enumerate(rows):
        name = _id(given)
        if name is None:
            bad.add(f"{table.place(row)}: {column} must be text or a whole number, {_got(given)}")
        elif name in found:
            bad.add(f"{table.place(row)}: {column} {show(name)} stands twice; remove one")
        elif problem := _text_problem(title, text):
            bad.add(f"{table.place(row)}: {problem}")
        else:
            found[name] = text if _is_nothing(title) else f"{title} {text or ''}".strip()
    bad.check()
    return found


def _text_problem(title: Any, text: Any) -> str | None:
    """Return why a text cannot be read after a title, which may be nothing; None where it can."""
    if _is_nothing(title):
        problem = text_problem(text)
        return None if problem is None else f"{_TEXT} {problem}"
    for key, value in ((_TITLE, title), (_TEXT, text)):
        if not _is_nothing(value) and (problem := text_problem(value)) is not None:
            return f"{key} {problem}"
    return None


def _is_nothing(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN, as pandas writes a missing text


def _grades(
    table: Table, queries: Mapping[str, str], documents: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Return the grades above 0 of documents by query."""
    found: dict[str, dict[str, float]] = {}
    seen: set[tuple[str, str]] = set()
    bad = BadRows()
    for row, cells in enumerate(zip(*(table.columns[name] for name in _QRELS), strict=True)):
        query, document, grade = _id(cells[0]), _id(cells[1]), relevance_of(cells[2])
        place = table.place(row)
        if query is None or query not in queries:
            bad.add(f"{place}: {_QRELS[0]} {show(cells[0])} is no query of the file of queries")
        elif document is None or document not in documents:
            bad.add(f"{place}: {_QRELS[1]} {show(cells[1])} is no document of the corpus")
        elif grade is None:
            bad.add(f"{place}: score must be a number of 0 or more, {_got(cells[2])}")
        elif (query, document) in seen:
            bad.add(f"{place}: {show(query)} and {show(document)} stand twice; remove one")
        elif grade > 0 and query == document:
            bad.add(
                f"{place}: {show(document)} is relevant to the query of the same id, and a "
                f"document whose id is that of a query is the query itself, which is not searched "
                f"for it; give it another id, or the score 0"
            )
        else:
            seen.add((query, document))
            own = found.setdefault(query, {})
            if grade > 0:
                own[document] = grade
    bad.check()
    return found


def _id(value: Any) -> str | None:
    """Return an id as text: files of JSON may hold numbers where those of text cannot."""
    if isinstance(value, str) and value:
        return value
    return str(value) if type(value) is int else None


def _got(value: Any) -> str:
    return f"got {show(value)}"
