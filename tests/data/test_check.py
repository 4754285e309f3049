from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.data import (
    DataSettings,
    SplitSource,
    check_files,
    check_labels,
    load_splits,
    most_rows,
)
from compressor.data.readers import read_table
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.columns import TextColumns

Write = Callable[[str, str], Path]
Settings = Callable[..., DataSettings]


def test_every_absent_file_is_listed(settings: Settings, tmp_path: Path) -> None:
    data = settings(train=tmp_path / "a.tsv", search=tmp_path / "b.tsv")
    with pytest.raises(EnvironmentMismatch) as caught:
        check_files(data)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "data.train.path",
        "data.search.path",
    ]


def test_labels_that_are_not_the_checkpoints_are_listed_by_split(
    settings: Settings, write: Write
) -> None:
    train = write("a.tsv", "label\ttext\n7\ta\n")
    search = write("b.csv", "text,label\na,yes\nb,maybe\n")
    unread = write("c.csv", "text,label\na,what\n")
    data = settings(train=train, search=search, certification=unread)
    with pytest.raises(RecipeError) as caught:
        check_labels(data, TextColumns(), ("no", "yes"), {"train", "search"})
    assert [mistake.partition(";")[0] for mistake in caught.value.mistakes] == [
        f"data.train: {train}:2: label 7 is outside 0..1 (the checkpoint's labels: no, yes)",
        f"data.search: {search}:3: label 'maybe' is not a label of the checkpoint",
    ]


def test_a_file_without_labels_has_none_to_check(settings: Settings, write: Write) -> None:
    data = settings(search=write("b.csv", "text,other\na,1\n"))
    check_labels(data, TextColumns(), ("no", "yes"), {"search"})


def test_every_wrong_header_is_listed(settings: Settings, write: Write, tmp_path: Path) -> None:
    parquet = tmp_path / "c.parquet"
    pq.write_table(pa.table({"sentence": ["a"], "target": [1]}), parquet)
    train = write("a.tsv", "label\ttxt\n")
    search = write("b.csv", "sentence,target\n")
    data = settings({"text": "sentence"}, train=train, search=search, certification=parquet)
    with pytest.raises(RecipeError) as caught:
        check_files(data)
    assert caught.value.mistakes == (
        f"data.train: {train}: no column 'sentence' (columns: label, txt)",
        f"data.search: {search}: no column 'label' (columns: sentence, target)",
        f"data.certification: {parquet}: no column 'label' (columns: sentence, target)",
    )


def test_right_headers_pass_without_reading_the_rows(settings: Settings, write: Write) -> None:
    check_files(
        settings(
            {"text": "text"},
            train=write("a.tsv", "text\nx\ttoo\tmany\n"),
            search=write("b.jsonl", '{"text": "a", "label": 1}\nbroken'),
        )
    )


def test_the_columns_of_a_split_are_looked_for_in_its_file(
    settings: Settings, write: Write
) -> None:
    train = {"path": write("a.tsv", "gold\tcontent\n0\ta\n"), "text": "content", "label": "gold"}
    search = {"path": write("b.tsv", "label\ttext\n0\ta\n"), "label": "gold"}
    with pytest.raises(RecipeError) as caught:
        check_files(settings({"text": "text"}, train=train, search=search))
    assert [line.split(": ")[0] for line in caught.value.mistakes] == ["data.search"]


def test_a_header_without_rows_is_a_mistake(settings: Settings, write: Write) -> None:
    path = write("a.csv", "text,label\n")
    with pytest.raises(RecipeError) as caught:
        check_files(settings(search=path))
    assert caught.value.mistakes == (f"data.search: {path}: has no rows",)


def test_an_empty_json_lines_file_is_a_mistake(settings: Settings, write: Write) -> None:
    path = write("a.jsonl", "")
    with pytest.raises(RecipeError) as caught:
        check_files(settings(search=path))
    assert caught.value.mistakes == (f"data.search: {path}: has no rows",)


def test_checking_text_files_loads_no_heavy_library(write: Write) -> None:
    path = write("a.tsv", "label\ttext\n1\ta\n")
    code = (
        "import sys; from compressor.data import DataSettings, check_files; "
        f"check_files(DataSettings.model_validate({{'search': {{'path': {str(path)!r}}}}})); "
        "heavy = {'torch', 'transformers', 'sklearn', 'pyarrow', 'datasets'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_header_needs_no_label_where_nothing_is_held_against_it(
    settings: Settings, write: Write
) -> None:
    data = settings(search=write("texts.csv", "text\na film\n"))
    with pytest.raises(RecipeError, match="no column 'label'"):
        check_files(data)
    check_files(data, labelled=False)


def test_a_text_file_has_no_more_rows_than_lines_without_its_header(write: Write) -> None:
    assert most_rows(SplitSource(path=write("a.tsv", "label\ttext\n0\ta\n1\tb"))) == 2
    assert most_rows(SplitSource(path=write("b.csv", "label,text\r\n0,a\r\n1,b\r\n"))) == 2
    assert most_rows(SplitSource(path=write("c.jsonl", '{"text": "a"}\n'))) == 1
    # A quoted cell over two lines counts twice: the number is a limit.
    assert most_rows(SplitSource(path=write("d.csv", 'text\n"a\nb"\n'))) == 2


def test_rows_are_known_where_the_source_says_so(tmp_path: Path) -> None:
    parquet = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), parquet)
    assert most_rows(SplitSource(path=parquet)) == 3
    assert most_rows(SplitSource(path=parquet, max_rows=2)) == 2
    assert most_rows(SplitSource(sklearn="digits", split="test")) == 500
    assert most_rows(SplitSource(hub="org/data")) is None
    assert most_rows(SplitSource(hub="org/data", max_rows=7)) == 7
    assert most_rows(SplitSource(path=tmp_path / "absent.tsv")) is None


def test_a_key_that_the_first_row_leaves_out_may_come_later(
    settings: Settings, write: Write
) -> None:
    rows = '{"text": "a", "label": 0}\n{"text": "b", "label": 1, "source": "web"}\n'
    data = settings(search=write("rows.jsonl", rows))
    check_files(data, keep={"search": ("source",)})


def test_a_cell_may_be_longer_than_the_csv_module_expects(settings: Settings, write: Write) -> None:
    data = settings(search=write("rows.csv", f"text,label\n{'a long text ' * 20_000},1\nb,0\n"))
    check_files(data)
    splits = load_splits(
        data, label_names=("no", "yes"), columns=TextColumns(), needed=("search",), seed=0
    )
    assert len(str(splits["search"].examples[0])) > 200_000


def test_a_parquet_column_that_appears_twice_is_named(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array([1])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text", "label"]), path)
    source = SplitSource(path=path)
    with pytest.raises(RecipeError, match="column 'text' appears twice"):
        read_table(source, ["text"], ["label"])


def test_a_folder_that_is_not_there_is_told(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMismatch, match=r"data\.search\.hub: .*/rows: does not exist"):
        check_files(settings(search={"hub": str(tmp_path / "rows")}))


def test_a_file_that_is_a_folder_or_a_device_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    data = settings(train=tmp_path / "folder.csv", search=tmp_path / "zero.csv")
    with pytest.raises(EnvironmentMismatch) as caught:
        check_files(data)
    assert str(caught.value).splitlines() == [
        f"data.train.path: {tmp_path / 'folder.csv'} is a directory, not a file; paths are "
        f"relative to the recipe",
        f"data.search.path: {tmp_path / 'zero.csv'} is a device, not a file; paths are relative "
        f"to the recipe",
    ]
