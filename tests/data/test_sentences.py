"""The sentences that the package carries: whole, apart from each other, and with their license."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

import compressor.data
from compressor.data import DataSettings, SplitSource, load_splits
from compressor.data.check import check_files, most_rows
from compressor.data.readers import read_table
from compressor.errors import RecipeError
from compressor.tasks.columns import TextColumns

FOLDER = Path(compressor.data.__file__).parent / "sentences"
SPLITS = ("calibration", "search", "certification")


def column(split: str, name: str) -> list[str]:
    source = SplitSource(builtin="sentences", split=split)
    return list(read_table(source, (name,), ()).columns[name])


@pytest.mark.parametrize(
    ("split", "rows"), [("calibration", 1000), ("search", 400), ("certification", 1200)]
)
def test_each_part_has_its_rows(split: str, rows: int) -> None:
    assert len(column(split, "text")) == rows
    assert most_rows(SplitSource(builtin="sentences", split=split)) == rows


def test_rows_are_those_of_the_file_as_they_stand_there() -> None:
    lines = (FOLDER / "search.tsv").read_text(encoding="utf-8").split("\n")[1:-1]
    assert column("search", "text") == [line.split("\t")[1] for line in lines]


@pytest.mark.parametrize(("first", "second"), list(combinations(SPLITS, 2)))
def test_no_text_and_no_sense_of_a_word_is_in_two_parts(first: str, second: str) -> None:
    assert set(column(first, "text")).isdisjoint(column(second, "text"))
    assert set(column(first, "synset")).isdisjoint(column(second, "synset"))


@pytest.mark.parametrize("split", SPLITS)
def test_no_text_occurs_twice(split: str) -> None:
    texts = column(split, "text")
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("split", SPLITS)
def test_texts_are_short_and_long(split: str) -> None:
    lengths = sorted(len(text.split()) for text in column(split, "text"))
    assert lengths[0] >= 4
    assert lengths[len(lengths) // 4] <= 10
    assert lengths[-len(lengths) // 10] >= 20


def test_the_files_are_small_and_bring_their_license() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000
    license_text = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved." in (
        license_text
    )
    assert 'PROVIDED "AS IS"' in license_text


def test_a_split_is_read_as_any_other() -> None:
    settings = DataSettings(
        search=SplitSource(builtin="sentences", split="search", max_rows=10),
    )
    splits = load_splits(
        settings, label_names=(), columns=TextColumns(), needed={"search"}, seed=0, labelled=False
    )
    assert len(splits["search"]) == 10
    assert splits["search"].source.startswith("builtin:sentences:search (10 of 400 rows")


def test_a_column_that_is_not_there_is_told_before_anything_runs() -> None:
    source = SplitSource(builtin="sentences", split="search")
    with pytest.raises(RecipeError, match=r"no column 'sentence' \(columns: synset, text\)"):
        check_files(DataSettings(text="sentence", search=source), labelled=False)


def test_labels_are_missed_before_anything_runs() -> None:
    source = SplitSource(builtin="sentences", split="search")
    with pytest.raises(RecipeError, match="no column 'label'"):
        check_files(DataSettings(search=source), labelled=True)
