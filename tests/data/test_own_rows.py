"""Rows go through a function of the user's own, each by itself, and keep their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compressor.data import DataSettings, fingerprint, load_splits
from compressor.errors import OwnCodeError, RecipeError
from compressor.own_code import OwnFunction, load_function
from compressor.tasks.columns import TextColumns

JOIN = (
    "def clean(row):\n"
    "    if not row['body']:\n"
    "        return None\n"
    "    row['text'] = row['title'] + ' ' + row['body']\n"
    "    row['label'] = int(row['stars'] > '3')\n"
    "    return row\n"
)
ROWS = "title,body,stars\na,b,1\nc,,5\nd,e,5\nf,g,2\n"


def function(folder: Path, text: str) -> OwnFunction:
    (folder / "rows.py").write_text(text)
    return load_function("data.preprocess", f"{folder}/rows.py:clean", takes="a row")


def read(folder: Path, code: str, rows: str = ROWS, **keep: Any) -> Any:
    (folder / "rows.csv").write_text(rows)
    data = DataSettings.model_validate({"search": {"path": str(folder / "rows.csv")}})
    return load_splits(
        data,
        label_names=("bad", "good"),
        columns=TextColumns(),
        needed=("search",),
        seed=0,
        preprocess=function(folder, code),
        **keep,
    )["search"]


def test_columns_are_those_that_come_out_and_rows_keep_their_places(tmp_path: Path):
    split = read(tmp_path, JOIN, keep={"search": ("stars",)})
    assert split.examples == ("a b", "d e", "f g")
    assert split.labels.tolist() == [0, 1, 0]
    assert split.rows.tolist() == [0, 2, 3]
    assert split.columns == {"stars": ("1", "5", "2")}
    assert split.source.endswith("rows.csv (through rows.py:clean, which left out 1)")


def test_rows_that_come_out_alike_are_the_same_split(tmp_path: Path):
    assert fingerprint(read(tmp_path, JOIN)) == fingerprint(read(tmp_path, f"# a note\n{JOIN}"))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return row['text']", "rows.py:2: clean raised KeyError: 'text', for "),
        ("return 'a'", "rows.py:1: clean must return a row, a dict of columns by their names, or"),
        ("return {}", "and gave {} (dict) for"),
        ("row['text'] = 1", "rows.csv:2 and returned None, which leaves the row out; return the"),
        ("return {row['title']: 1}", "gave the columns c for "),
        ("return {'text': __import__('random').random()}", "when it was asked again; make it"),
        ("yield row", "and gave <generator object clean"),
    ],
)
def test_a_function_that_gives_no_row_is_told_with_line_and_row(
    tmp_path: Path, body: str, told: str
):
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, f"def clean(row):\n    {body}\n")
    assert str(caught.value).startswith("data.preprocess: ")
    assert told in str(caught.value)
    assert "rows.csv:" in str(caught.value)


def test_a_function_that_remembers_is_refused(tmp_path: Path):
    code = (
        "seen = set()\n"
        "def clean(row):\n"
        "    if row['title'] in seen:\n"
        "        return None\n"
        "    seen.add(row['title'])\n"
        "    return row\n"
    )
    with pytest.raises(RecipeError, match="depend on the row alone"):
        read(tmp_path, code)


def test_a_function_that_leaves_out_every_row_is_told(tmp_path: Path):
    with pytest.raises(RecipeError, match="gave None for every row; return it"):
        read(tmp_path, "def clean(row):\n    return None\n")


def test_columns_that_do_not_come_out_are_missing(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"after rows.py:clean: no column 'text'"):
        read(tmp_path, "def clean(row):\n    return {'words': row['title']}\n")


def test_files_of_queries_and_documents_are_refused(tmp_path: Path):
    files = {name: str(tmp_path / f"{name}.tsv") for name in ("qrels", "queries", "corpus")}
    with pytest.raises(ValueError, match="goes through rows of one file"):
        DataSettings.model_validate({"search": files, "preprocess": "rows.py:clean"})


def test_an_error_keeps_its_kind_where_only_one_function_is_asked(tmp_path: Path):
    own = function(tmp_path, "def clean(row):\n    return 1 / 0\n")
    with pytest.raises(OwnCodeError):
        own({})
