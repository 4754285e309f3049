"""Rows of large files: read from a file, in every way like those in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.data import (
    Dataset,
    DataSettings,
    SplitSource,
    describe_splits,
    load_splits,
    row_files,
)
from compressor.data.readers import read_table
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.columns import Columns, ImageColumns, SentenceColumns, TextColumns
from compressor.tasks.stored_rows import ReadByRow
from compressor.tasks.table import Table
from compressor.tasks.word_columns import WordColumns

Write = Callable[[str, str], Path]
# What JSON can hold, texts that UTF-8 cannot carry and numbers that no column of integers holds.
VALUES = ["a", None, 3, 2.5, 10**30, True, [1, "b"], {"k": [None]}, "\ud800", "", "é", "null"]


@dataclass
class Switch:
    """Whether rows are kept in a file."""

    patch: pytest.MonkeyPatch

    def read(self, source: SplitSource, *, large: bool, optional: tuple[str, ...] = ()) -> Table:
        self.patch.setattr(row_files, "KEPT_BYTES", -1 if large else 1 << 23)
        self.patch.setattr(row_files, "_FEW_LINES", 0 if large else 1 << 16)
        return read_table(source, ("text",), optional)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Switch:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_files, "ROWS_AT_ONCE", 3)
    return Switch(monkeypatch)


def plain(table: Table) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in table.columns.items()}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'text,label\n"a\nb",1\n\nc,0\nd,0\ne,1\n'),
        ("a.csv", "text,label\n" + "".join(f"t{row},{row % 2}\n" for row in range(8))),
        ("a.tsv", 'label\ttext\n1\t"so" good\n0\t"unclosed, bad\n'),
        ("a.jsonl", "".join(json.dumps({"text": value, "label": 1}) + "\n" for value in VALUES)),
        ("a.jsonl", '{"text": "a"}\n\n{"label": "x", "text": "b"}\n'),
        ("a.json", json.dumps([{"text": "a"}, {"text": "b", "label": 0}])),
        ("a.conll", "\na B-x\nb O\n\n\nc O\n" + "\n".join(f"w{row} O\n" for row in range(8))),
    ],
    ids=["quoted csv", "csv", "tsv", "any JSON", "missing keys", "JSON array", "sentences"],
)
def test_text_files_are_read_alike_from_a_file(rows: Switch, write: Write, name: str, text: str):
    source = SplitSource(path=write(name, text))
    few = rows.read(source, large=False, optional=("label",))
    many = rows.read(source, large=True, optional=("label",))
    assert all(isinstance(values, ReadByRow) for values in many.columns.values())
    assert plain(many) == plain(few)
    assert [many.place(row) for row in range(len(many))] == [
        few.place(row) for row in range(len(few))
    ]


def test_lines_that_follow_each_other_are_a_range(rows: Switch, write: Write):
    table = rows.read(SplitSource(path=write("a.csv", "text\na\nb\nc\n")), large=True)
    assert table.lines == range(2, 5)


def test_parquet_of_any_type_is_read_alike_from_a_file(rows: Switch, tmp_path: Path):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "text": ["a", None, "c", "d", "e"],
            "label": [1, 0, -1, 1, 0],
            "kind": pa.array(["x", "y", "x", "x", "y"]).dictionary_encode(),
            "image": [{"bytes": b"1", "path": None}] * 5,
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)
    source, more = SplitSource(path=path), ("label", "kind", "image")
    many = rows.read(source, large=True, optional=more)
    assert isinstance(many.columns["label"], ReadByRow)
    assert plain(many) == plain(rows.read(source, large=False, optional=more))
    assert list(many.columns["label"]) == ["yes", "no", None, "yes", "no"]


def test_a_dataset_is_read_alike_from_a_file(rows: Switch, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    made = {"text": ["a", "b", "c", "d"], "label": [1, 0, 0, 1]}
    datasets.Dataset.from_dict(made, features=features).to_parquet(folder / "train.parquet")
    source = SplitSource(hub=str(folder), split="train")
    many = rows.read(source, large=True, optional=("label",))
    assert isinstance(many.columns["text"], ReadByRow)
    assert plain(many) == plain(rows.read(source, large=False, optional=("label",)))


def test_stored_values_are_read_by_place_in_any_order(rows: Switch, write: Write):
    text = "text\n" + "".join(f"t{row}\n" for row in range(10))
    column = rows.read(SplitSource(path=write("a.csv", text)), large=True).columns["text"]
    assert isinstance(column, ReadByRow)
    assert (column[0], column[-1], column[np.int64(4)]) == ("t0", "t9", "t4")
    assert column.read(np.array([7, 2, 3, 4, 9, 9, 0])) == [
        "t7",
        "t2",
        "t3",
        "t4",
        "t9",
        "t9",
        "t0",
    ]
    assert list(column[2:9:3]) == ["t2", "t5", "t8"]
    assert (len(column[:4]), column[:4][-1], list(column[20:])) == (4, "t3", [])
    with pytest.raises(IndexError, match="10 is outside the 10 rows"):
        column[10]


def loaded(rows: Switch, settings: DataSettings, *, large: bool) -> Any:
    rows.read(SplitSource(path=settings.given["train"].path), large=large)
    return load_splits(
        settings,
        label_names=("no", "yes"),
        columns=TextColumns(),
        needed=("train", "calibration", "search"),
        seed=3,
        keep={"search": ("source",)},
    )


def test_splits_of_large_files_are_those_of_small_ones(rows: Switch, write: Write):
    text = "text,label,source\n" + "".join(
        f"text {row},{('no', 'yes')[row % 3 == 0]},{row % 2}\n" for row in range(60)
    )
    settings = DataSettings.model_validate({"train": {"path": write("a.csv", text)}})
    few = loaded(rows, settings, large=False)
    many = loaded(rows, settings, large=True)
    assert all(isinstance(split.examples, ReadByRow) for split in many.values())
    assert describe_splits(many) == describe_splits(few)
    for name, split in many.items():
        assert tuple(split.examples) == few[name].examples
        assert split.labels.tolist() == few[name].labels.tolist()
        assert split.rows.tolist() == few[name].rows.tolist()
        assert split.columns == few[name].columns


def splits_read(
    rows: Switch,
    path: Path,
    columns: Columns,
    *,
    large: bool,
    prompt_name: str | None = None,
    **data: Any,
) -> dict[str, Dataset]:
    train = {"path": path, **({} if prompt_name is None else {"prompt_name": prompt_name})}
    settings = DataSettings.model_validate({"train": train, **data})
    rows.read(SplitSource(path=path), large=large)
    return load_splits(
        settings, label_names=("O", "B-x"), columns=columns, needed=("train", "calibration"), seed=3
    )


def same_examples(many: dict[str, Dataset], few: dict[str, Dataset]) -> None:
    assert describe_splits(many) == describe_splits(few)
    for name, split in many.items():
        assert isinstance(split.examples, ReadByRow)
        assert tuple(split.examples) == few[name].examples
        places = [place for place in (5, 0, 3, -1) if place < len(split)]
        assert [split.examples[place] for place in places] == [
            few[name].examples[place] for place in places
        ]
        assert tuple(split.examples[1:7:2]) == few[name].examples[1:7:2]


@pytest.mark.parametrize("kind", ["jsonl", "conll", "parquet"])
def test_words_of_a_large_file_are_read_by_row(rows: Switch, tmp_path: Path, kind: str):
    documents = [
        {
            "text": [f"w{row}", *(["more"] * (row % 3))],
            "label": ["B-x" if row % 2 else "O", *(["O"] * (row % 3))],
        }
        for row in range(40)
    ]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(documents), path, row_group_size=7)
    else:
        pairs = (zip(item["text"], item["label"], strict=True) for item in documents)
        path.write_text("\n".join("".join(f"{w} {t}\n" for w, t in pair) for pair in pairs))
    few, many = (splits_read(rows, path, WordColumns(), large=large) for large in (False, True))
    same_examples(many, few)
    for name, split in many.items():
        one, other = split.labels, few[name].labels
        assert one is not None
        assert other is not None
        assert [tags.tolist() for tags in one] == [tags.tolist() for tags in other]


@pytest.mark.parametrize("prompt_name", [None, "query"])
def test_texts_of_pairs_in_a_large_file_are_read_by_row(
    rows: Switch, write: Write, prompt_name: str | None
):
    path = write("a.csv", "text,other\n" + "".join(f"one {k},two {k}\n" for k in range(40)))
    few, many = (
        splits_read(
            rows,
            path,
            SentenceColumns(),
            large=large,
            prompt_name=prompt_name,
            text=["text", "other"],
        )
        for large in (False, True)
    )
    same_examples(many, few)
    assert len(many["train"]) + len(many["calibration"]) == 80


@pytest.mark.parametrize(
    "cell",
    [
        'a,"maybe"\nb,2\nc,""\n',
        "a,0\nb,5\nc,yes\n",
        "a,0\nb,7\nc,-3\n",
        "a,1\n ,0\nc,1\n",
        "a,0.5\nb,1.5\nc,0\n",
        "a,0\nb,1\nc,x\nd,1\n",
    ],
)
def test_wrong_rows_of_large_files_are_told_as_those_of_small_ones(
    rows: Switch, write: Write, cell: str
):
    path = write("a.csv", f"text,label\n{cell}")
    settings = DataSettings.model_validate({"train": {"path": path}, "search": {"path": path}})
    told = []
    for large in (False, True):
        rows.read(SplitSource(path=path), large=large)
        with pytest.raises(RecipeError) as caught:
            load_splits(
                settings,
                label_names=("no", "yes"),
                columns=TextColumns(),
                needed=("search",),
                seed=0,
            )
        told.append(caught.value.mistakes)
    assert told[0] == told[1]


def test_images_of_a_large_file_are_decoded_when_they_are_read(rows: Switch, tmp_path: Path):
    pixels = [np.full((2, 3), value, dtype=np.uint8) for value in (0, 90, 200, 7)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [item.tolist() for item in pixels]}), path)
    table = rows.read(SplitSource(path=path), large=True)
    found = ImageColumns().examples(table, ("text",), range(1, 4))
    assert isinstance(found, ReadByRow)
    np.testing.assert_array_equal(np.array(list(found)), np.array(pixels[1:]))


def test_nothing_is_left_in_the_cache(rows: Switch, write: Write, tmp_path: Path):
    table = rows.read(SplitSource(path=write("a.csv", "text\na\n")), large=True)
    assert list(table.columns["text"]) == ["a"]
    assert list((tmp_path / "cache" / "rows").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    rows: Switch, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        EnvironmentMismatch, match=r"file/rows: rows of a large file cannot be kept"
    ):
        rows.read(SplitSource(path=write("a.csv", "text\na\n")), large=True)
