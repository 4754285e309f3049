from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.data.readers import read_header, read_table
from compressor.data.settings import SplitSource
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.machine.quiet import quiet_libraries

Write = Callable[[str, str], Path]


def columns_of(path: Path) -> dict[str, list[Any]]:
    return dict(read_table(SplitSource(path=path), ("text",), ("label",)).columns)


def mistakes_of(path: Path, *required: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        read_table(SplitSource(path=path), required or ("text",), ("label",))
    return caught.value.mistakes


def test_csv_follows_the_quotes(write: Write) -> None:
    path = write("a.csv", 'text,label\r\n"a, ""b""\nc",1\r\nd,0\r\n')
    assert columns_of(path) == {"text": ['a, "b"\nc', "d"], "label": ["1", "0"]}


def test_csv_rows_are_placed_at_their_first_line(write: Write) -> None:
    path = write("a.csv", 'text,label\n"a\nb",1\n\nc,0\n')
    assert read_table(SplitSource(path=path), ("text",), ()).lines == [2, 5]


def test_tsv_has_no_quotes(write: Write) -> None:
    path = write("a.tsv", 'label\ttext\n1\t"so" good\n0\t"unclosed, bad\n')
    assert columns_of(path) == {"text": ['"so" good', '"unclosed, bad'], "label": ["1", "0"]}


def test_a_byte_order_mark_is_not_part_of_the_first_column(write: Write) -> None:
    assert columns_of(write("a.csv", "\ufefftext\na\n")) == {"text": ["a"]}


def test_json_lines_give_a_missing_key_as_none(write: Write) -> None:
    path = write("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b", "other": 3}\n')
    assert columns_of(path) == {"text": ["a", "b"], "label": [1, None]}


def test_parquet_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None], "label": [1, 0], "more": [1.0, 2.0]}), path)
    assert columns_of(path) == {"text": ["a", None], "label": [1, 0]}


def test_digits_are_stretched_to_the_range_of_bytes() -> None:
    table = read_table(SplitSource(sklearn="digits"), ("image", "label"), ())
    images = np.stack(table.columns["image"])
    # scikit-learn's first digit is a zero whose first row reads 0 0 5 13 9 1 0 0, out of 16.
    assert images[0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert (images.shape, images.dtype, images.max()) == ((1797, 8, 8), np.uint8, 255)
    assert table.columns["label"][:3] == [0, 1, 2]


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a local folder of two parquet splits with named classes, as the Hub stores them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "reviews"
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    for split in ("train", "test"):
        rows = {"text": [f"{split} a", f"{split} b"], "label": [1, 0]}
        (folder / split).mkdir(parents=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            folder / split / "part-0.parquet"
        )
    return folder


def test_a_hub_dataset_gives_its_classes_by_name(hub_folder: Path) -> None:
    source = SplitSource(hub=str(hub_folder), split="test")
    table = read_table(source, ("text", "label"), ())
    assert table.columns == {"text": ["test a", "test b"], "label": ["pos", "neg"]}


def test_a_hub_dataset_shows_no_bars_in_a_run(
    hub_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "datasets.utils")  # as where nothing has loaded it
    with quiet_libraries():
        read_table(SplitSource(hub=str(hub_folder), split="test"), ("text",), ())
        assert datasets.are_progress_bars_disabled()


def test_a_hub_dataset_without_a_split_lists_the_splits(hub_folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_table(SplitSource(hub=str(hub_folder)), ("text",), ())
    assert "`split` is missing (the dataset has: train, test)" in caught.value.mistakes[0]


def test_an_unknown_split_of_a_hub_dataset_is_a_mistake(hub_folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_table(SplitSource(hub=str(hub_folder), split="dev"), ("text",), ())
    assert 'Unknown split "dev"' in caught.value.mistakes[0]


def test_a_hub_folder_without_data_is_an_environment_mismatch(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(EnvironmentMismatch, match="cannot be loaded"):
        read_table(SplitSource(hub=str(folder), split="train"), ("text",), ())


def test_a_column_that_does_not_exist_is_compared_with_those_that_do(write: Write) -> None:
    path = write("a.tsv", "label\tsentence\n1\ta\n")
    assert mistakes_of(path, "sentense", "id") == (
        f"{path}: no column 'sentense', did you mean 'sentence'? (columns: label, sentence)",
        f"{path}: no column 'id' (columns: label, sentence)",
    )


def test_an_optional_column_that_seems_misspelt_is_a_mistake(write: Write) -> None:
    path = write("a.tsv", "lable\ttext\n1\ta\n")
    assert mistakes_of(path) == (
        f"{path}: no column 'label', did you mean 'lable'? (columns: lable, text)",
    )


def test_rows_of_another_width_are_listed_with_their_lines(write: Write) -> None:
    path = write("a.tsv", "label\ttext\n1\ta\n1\n0\tb\tc\n")
    assert mistakes_of(path) == (
        f"{path}:3: has 1 fields, the header names 2",
        f"{path}:4: has 3 fields, the header names 2",
    )


def test_a_file_of_the_wrong_kind_is_reported_by_its_first_five_rows(write: Write) -> None:
    path = write("a.jsonl", "text\n" * 100)
    assert [line.split(": ")[0] for line in mistakes_of(path)] == [
        f"{path}:{line}" for line in (1, 2, 3, 4, 5)
    ]


@pytest.mark.parametrize(
    ("name", "text", "line", "part"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', 2, "not one JSON object"),
        ("a.jsonl", '["text"]\n', 1, "must be a JSON object, got a list of 1 entry"),
        ("a.jsonl", "[" * 100_000 + "\n", 1, "not one JSON object"),
        ("a.csv", 'text\n"a\n', 2, "not valid csv"),
        ("a.csv", "text,text\na,b\n", 1, "column 'text' appears twice"),
    ],
)
def test_malformed_rows_are_named_by_line(
    write: Write, name: str, text: str, line: int, part: str
) -> None:
    path = write(name, text)
    [mistake] = mistakes_of(path)
    assert mistake.startswith(f"{path}:{line}: ")
    assert part in mistake


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_an_empty_file_is_a_mistake(write: Write, name: str) -> None:
    path = write(name, "")
    assert mistakes_of(path) == (
        f"{path}: the file is empty; its first line must name the columns",
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_text_that_is_not_utf8_is_a_mistake_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n')
    [mistake] = mistakes_of(path, '{"text": "a"}')
    assert mistake.startswith(f"{path}:2: not UTF-8")


def with_classes(path: Path, labels: list[Any]) -> Path:
    """Write rows as `datasets` does, with the names of the classes in the schema."""
    features = {"label": {"names": ["entailment", "neutral"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    rows = pa.table({"text": ["t"] * len(labels), "label": labels})
    pq.write_table(rows.replace_schema_metadata(metadata), path)
    return path


def test_a_parquet_file_of_named_classes_reads_like_the_hub_dataset(
    hub_folder: Path,
) -> None:
    hub = SplitSource(hub=str(hub_folder), split="test")
    wanted = read_table(hub, ("text",), ("label",)).columns["label"]
    assert columns_of(hub_folder / "test" / "part-0.parquet")["label"] == wanted == ["pos", "neg"]


def test_class_names_in_a_parquet_schema_are_the_labels(tmp_path: Path) -> None:
    path = with_classes(tmp_path / "a.parquet", [1, 0, -1, None])
    assert columns_of(path)["label"] == ["neutral", "entailment", None, None]


def test_an_id_beyond_the_names_in_the_schema_is_told_by_its_row(tmp_path: Path) -> None:
    [mistake] = mistakes_of(with_classes(tmp_path / "a.parquet", [1, 2]))
    assert "row 1 (the first is 0): label 2 is outside 0..1, the classes that" in mistake


def test_a_schema_that_names_no_classes_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.Value("int8")}
    )
    rows = {"text": ["t", "u"], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    assert columns_of(path)["label"] == [1, 0]


def test_labels_of_a_dictionary_column_are_their_words(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    labels = pa.array(["yes", "no", "yes"]).dictionary_encode()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": labels}), path)
    assert columns_of(path)["label"] == ["yes", "no", "yes"]


def test_a_schema_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.table({"text": ["t"], "label": [1]})
    pq.write_table(rows.replace_schema_metadata({"huggingface": "{"}), path)
    with pytest.raises(EnvironmentMismatch, match="what its schema says about features"):
        columns_of(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_an_absent_file_is_an_environment_mismatch(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(EnvironmentMismatch, match=str(path)):
        read_table(SplitSource(path=path), ("text",), ())


def test_a_truncated_parquet_file_is_an_environment_mismatch(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EnvironmentMismatch, match="cannot be read as parquet"):
        read_table(SplitSource(path=path), ("text",), ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,label\na,1\n"),
        ("a.tsv", "text\tlabel\na\t1\n"),
        ("a.jsonl", json.dumps({"text": "a", "label": 1}) + "\nbroken"),
    ],
)
def test_a_header_is_read_without_the_rows(write: Write, name: str, text: str) -> None:
    assert read_header(SplitSource(path=write(name, text))) == ["text", "label"]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (
            gzip.compress(b"label\ttext\n1\ta\n", mtime=0),
            "is a gzip file, no UTF-8 text of rows; unpack it",
        ),
        (b"PK\x03\x04rest", "is a zip file, or a spreadsheet"),
        (b"PAR1rest", "is a parquet file, no UTF-8 text of rows; set `format: parquet`"),
        ("label\ttext\n".encode("utf-16"), "is UTF-16 text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    ],
)
def test_a_file_of_another_kind_is_named_by_its_kind(
    tmp_path: Path, start: bytes, words: str
) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(start)
    with pytest.raises(RecipeError) as caught:
        read_header(SplitSource(path=path))
    assert words in caught.value.mistakes[0]


def test_a_nul_character_is_named_by_its_line(write: Write) -> None:
    path = write("a.tsv", "label\ttext\n1\ta\0b\n")
    assert mistakes_of(path) == (
        f"{path}:2: holds a NUL character, so the file is damaged or in another encoding; convert "
        f"it to UTF-8",
    )


def test_latin_1_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\na\nb\xe9\n")
    assert mistakes_of(path)[0].startswith(f"{path}:3: not UTF-8")


@pytest.mark.parametrize(
    ("name", "header", "words"),
    [
        ("a.csv", "text;label", "separated by semicolons, and a csv file has commas there; write"),
        (
            "a.csv",
            "text\tlabel",
            "separated by tabs, and a csv file has commas there; set `format:",
        ),
        ("a.tsv", "text,label", "separated by commas, and a tsv file has tabs there; set `format:"),
    ],
)
def test_another_separator_is_named(write: Write, name: str, header: str, words: str) -> None:
    [mistake] = mistakes_of(write(name, f"{header}\na;1\n"))
    assert words in mistake


def test_a_json_array_is_read_as_rows(write: Write) -> None:
    path = write("a.json", '[\n {"text": "a", "label": 1},\n {"text": "b"}\n]\n')
    assert columns_of(path) == {"text": ["a", "b"], "label": [1, None]}
    assert read_header(SplitSource(path=path)) == ["text", "label"]


def test_a_json_array_of_something_else_is_named_by_position(write: Write) -> None:
    path = write("a.json", '[{"text": "a"}, 5]')
    assert mistakes_of(path) == (f"{path}: row 1 of the array must be an object, got 5",)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_in_the_layout_of_squad_is_read_as_rows_of_questions(
    write: Write, indent: int | None
) -> None:
    asked = [
        {"id": "7", "question": "who?", "answers": [{"text": "Ann", "answer_start": 3}]},
        {"id": "8", "question": "why?", "answers": [], "is_impossible": True},
    ]
    articles = [{"title": "t", "paragraphs": [{"context": "by Ann", "qas": asked}]}]
    path = write("a.json", json.dumps({"version": "v2.0", "data": articles}, indent=indent))
    source = SplitSource(path=path)
    assert read_header(source) == ["id", "title", "question", "context", "answers"]
    assert dict(read_table(source, ("question", "context", "answers"), ()).columns) == {
        "question": ["who?", "why?"],
        "context": ["by Ann", "by Ann"],
        "answers": [{"text": ["Ann"], "answer_start": [3]}, {"text": [], "answer_start": []}],
    }


def test_a_question_of_squad_without_the_key_answers_has_no_cell_of_answers(write: Write) -> None:
    asked: list[dict[str, Any]] = [
        {"id": "7", "question": "who?"},
        {"id": "8", "question": "why?", "is_impossible": True},
        {"id": "9", "question": "when?", "answers": []},
    ]
    articles = [{"title": "t", "paragraphs": [{"context": "by Ann", "qas": asked}]}]
    source = SplitSource(path=write("a.json", json.dumps({"data": articles})))
    empty: dict[str, Any] = {"text": [], "answer_start": []}
    assert read_table(source, ("answers",), ()).columns["answers"] == [None, empty, empty]
    articles[0]["paragraphs"][0]["qas"] = asked[:1]  # type: ignore[index]
    source = SplitSource(path=write("b.json", json.dumps({"data": articles})))
    assert read_header(source) == ["id", "title", "question", "context"]


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_under_the_key_data_of_one_object_are_read(write: Write, indent: int | None) -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    path = write("a.json", json.dumps({"data": rows}, indent=indent))
    assert columns_of(path) == {"text": ["a", "b"]}


def test_another_object_over_several_lines_is_no_file_of_rows(write: Write) -> None:
    path = write("a.json", json.dumps({"text": {"0": "a"}, "label": {"0": 1}}, indent=1))
    [mistake] = mistakes_of(path, "text")
    assert "is one object over several lines (text, label)" in mistake


def test_a_key_that_a_json_row_gives_twice_is_a_mistake(write: Write) -> None:
    path = write("a.jsonl", '{"text": "a", "text": "b"}\n')
    assert mistakes_of(path) == (f"{path}:1: not one JSON object (key 'text' appears twice)",)


def test_parquet_texts_that_are_no_unicode_are_a_mistake(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": broken}), path)
    assert mistakes_of(path)[0].startswith(f"{path}: column 'text' holds a value that cannot be")


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["007", "NA"]).dictionary_encode(),
        pa.array(["007", "NA"], pa.large_string()),
        pa.array(["007", "NA"], pa.string_view()),
    ],
)
def test_parquet_texts_of_every_kind_are_read(tmp_path: Path, texts: pa.Array) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path)
    assert columns_of(path) == {"text": ["007", "NA"]}


def test_fifty_thousand_columns_are_read_in_seconds(write: Write) -> None:
    names = ["text", *(f"c{number}" for number in range(50_000))]
    path = write("a.csv", f"{','.join(names)}\n{','.join('x' * len(names))}\n")
    assert len(read_table(SplitSource(path=path), read_header(SplitSource(path=path)), ())) == 1
    [mistake] = mistakes_of(path, "texts")
    assert len(mistake) < 500


def test_a_hub_folder_of_csv_gives_texts_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.csv").write_text("text,label\nNA,0\nnull,1\n007,1\n")
    source = SplitSource(hub=str(tmp_path / "rows"), split="train")
    table = read_table(source, ("text",), ("label",))
    assert table.columns == {"text": ["NA", "null", "007"], "label": ["0", "1", "1"]}


def test_a_folder_of_save_to_disk_is_told_how_to_be_read(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(RecipeError, match=r"load_from_disk\(.*\)\.to_parquet\('rows\.parquet'\)"):
        read_table(SplitSource(hub=str(tmp_path / "saved")), ("text",), ())


def test_a_pipe_within_a_hub_folder_is_refused(hub_folder: Path) -> None:
    os.mkfifo(hub_folder / "train" / "part-1.parquet")
    with pytest.raises(EnvironmentMismatch, match=r"part-1\.parquet is a named pipe"):
        read_table(SplitSource(hub=str(hub_folder), split="train"), ("text",), ())


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet"])
def test_a_data_file_that_is_a_pipe_is_refused_without_being_opened(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(EnvironmentMismatch, match="is a named pipe, not a file"):
        read_table(SplitSource(path=tmp_path / name), ("text",), ())
