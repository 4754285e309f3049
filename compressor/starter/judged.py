"""Finds queries, documents and what is relevant in a folder of BEIR's layout, for a starter recipe.

Beside `corpus.jsonl` and `queries.jsonl` there are `qrels/train.tsv`, `qrels/dev.tsv` and
`qrels/test.tsv`; `qrels-dev.tsv` with `queries-dev.tsv` do as well, and so do csv, tsv and parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from compressor.data.check import file_source
from compressor.data.readers import read_header
from compressor.data.settings import SplitSource
from compressor.errors import RecipeError
from compressor.starter.usual_parts import usual_splits
from compressor.words import listing

_COLUMNS = frozenset(("query-id", "corpus-id", "score"))
_ENDINGS = (".jsonl", ".tsv", ".csv", ".parquet")


def splits_in(folder: Path) -> dict[str, Path]:
    """Return the files of relevance in a folder by the split of a recipe that each is for.

    The only one is for search. Raises `RecipeError` where there is none, or no telling which one is
    to judge.
    """
    found = {_part(path): path for path in _relevance(folder)}
    if not found:
        raise RecipeError(
            f"--data: {folder} is a directory without qrels/*.tsv or qrels-*.tsv; give a file of "
            f"rows, or a directory in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/dev.tsv)"
        )
    splits = usual_splits(found)
    if "search" not in splits:
        others = [name for name in found if name != "train"]
        if len(others) != 1:
            raise RecipeError(
                f"--data: {folder} has {listing([path.name for path in found.values()])}, and none "
                f"of them says that it is for development; give --data the file that judges, and "
                f"--train and --certification others"
            )
        splits = {"search": found[others[0]]} | (
            {"train": splits["train"]} if "train" in splits else {}
        )
    return splits


def judged_source(path: Path) -> SplitSource | None:
    """Return the source of queries that a file of relevance names; None for any other file.

    Raises `RecipeError` where the queries or documents are not beside it.
    """
    if path.suffix.lower() not in _ENDINGS or not path.is_file():
        return None
    if not _COLUMNS.issubset(read_header(file_source(path))):
        return None
    folder = path.parent.parent if path.parent.name == "qrels" else path.parent
    part = _part(path)
    queries = _only(folder, "queries", (f"queries-{part}", f"queries_{part}", "queries"))
    corpus = _only(folder, "corpus", ("corpus", "documents"))
    return SplitSource(qrels=path, queries=queries, corpus=corpus)


def _relevance(folder: Path) -> Iterator[Path]:
    for path in sorted([*folder.glob("qrels/*"), *folder.glob("qrels*")]):
        if path.is_file() and path.suffix.lower() in _ENDINGS:
            yield path


def _part(path: Path) -> str:
    """Return what the name of a file of relevance calls its part, such as `dev`; or nothing."""
    return re.sub(r"^qrels[-_.]?", "", path.stem)


def _only(folder: Path, key: str, names: tuple[str, ...]) -> Path:
    for name in names:
        for ending in _ENDINGS:
            if (path := folder / f"{name}{ending}").is_file():
                return path
    raise RecipeError(
        f"--data: no {key}.jsonl (or .tsv, .csv, .parquet) in {folder}, where the texts of the ids "
        f"in a file of relevance stand; put it there, or write the recipe by hand (data.search: "
        f"queries, corpus, qrels)"
    )
