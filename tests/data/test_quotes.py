"""What a writer wrote is what is read, or is refused; never something else."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from compressor.data import DataSettings
from compressor.data.readers import read_header, read_table
from compressor.data.settings import SplitSource
from compressor.errors import RecipeError

Write = Callable[[str, str], Path]

TEXTS = ["tab\there", 'he said "good"', "two\nlines", "plain"]


def texts_of(path: Path, **settings: str) -> list[str]:
    source = SplitSource.model_validate({"path": path, **settings})
    return list(read_table(source, ("text",), ("label",)).columns["text"])


def test_a_tsv_that_pandas_wrote_with_tabs_and_lines_in_its_texts_is_read_as_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tsv"
    pd.DataFrame({"label": [0, 1, 0, 1], "text": TEXTS}).to_csv(path, sep="\t", index=False)
    assert texts_of(path) == TEXTS


def test_a_tsv_with_every_cell_in_quotes_is_read_without_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    frame = pd.DataFrame({"label": [0, 1], "text": ['he said "good"', "plain"]})
    frame.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    assert read_header(SplitSource(path=path)) == ["label", "text"]
    assert texts_of(path) == ['he said "good"', "plain"]


def test_quotes_anywhere_in_a_tsv_are_text(write: Write) -> None:
    path = write("a.tsv", 'label\ttext\n1\t"so" good\n0\ta "lone\n1\tlast"\n0\t"whole"\n')
    assert texts_of(path) == ['"so" good', 'a "lone', 'last"', '"whole"']


@pytest.mark.parametrize(
    "rows",
    [
        '1\t"so good"\n',  # quotes of the text, or of a writer
        '1\t"he said ""good"""\n',
        '1\t"he said \\"good\\""\n0\t"a"\n',  # another way to write a quote within quotes
        '1\t"a"\n0\t"b"\n0\t"broken" c\n',  # mostly a writer's, with one row that is not
    ],
)
def test_a_tsv_that_may_be_quoted_or_not_is_refused_with_the_way_out(
    write: Write, rows: str
) -> None:
    path = write("a.tsv", f"label\ttext\n{rows}")
    with pytest.raises(RecipeError, match=r"a\.tsv:2: .*set `quoting: none` or `quoting: csv`"):
        texts_of(path)


def test_the_recipe_may_say_how_a_tsv_is_quoted(write: Write) -> None:
    path = write("a.tsv", 'label\ttext\n1\t"he said ""good"""\n')
    assert texts_of(path, quoting="none") == ['"he said ""good"""']
    assert texts_of(path, quoting="csv") == ['he said "good"']


def test_a_csv_of_one_writer_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    texts = ["a, b", 'he said "good"', "two\nlines", "007", "NA", "null", "nan", "1e5"]
    pd.DataFrame({"text": texts}).to_csv(path, index=False)
    assert texts_of(path) == texts


def test_a_csv_whose_quotes_would_join_rows_is_refused(write: Write) -> None:
    # No cell is in quotes here; read as csv, rows 2 and 3 would be one.
    path = write("a.csv", 'text,label\n" film,0\nend ",0\nan 8" disc,1\n')
    with pytest.raises(RecipeError, match="set `quoting: none`"):
        texts_of(path)
    assert texts_of(path, quoting="none") == ['" film', 'end "', 'an 8" disc']


def test_a_csv_with_quotes_inside_cells_alone_is_read_as_it_stands(write: Write) -> None:
    path = write("a.csv", 'text,label\nan 8" disc,1\nso "good",0\n')
    assert texts_of(path) == ['an 8" disc', 'so "good"']


def test_an_uneven_row_of_a_tsv_with_quotes_is_named_by_its_line(write: Write) -> None:
    path = write("a.tsv", 'label\ttext\n1\ta "b\n0\tc\td\n')
    with pytest.raises(RecipeError, match=r"a\.tsv:3: has 3 fields, the header names 2"):
        texts_of(path)


def test_quoting_belongs_to_text_files_with_separators() -> None:
    with pytest.raises(ValueError, match="belongs to csv and tsv"):
        DataSettings.model_validate({"search": {"path": "a.parquet", "quoting": "none"}})
