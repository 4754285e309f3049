from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from compressor.data.readers import read_header, read_table
from compressor.data.settings import SplitSource
from compressor.errors import RecipeError
from compressor.tasks.table import Table

Write = Callable[[str, str], Path]


def table_of(path: Path, *required: str, **source: Any) -> Table:
    return read_table(SplitSource(path=path, **source), required or ("text",), ("label",))


def mistake_of(path: Path, *required: str) -> str:
    with pytest.raises(RecipeError) as caught:
        table_of(path, *required)
    return caught.value.mistakes[0]


def test_a_sentence_is_a_row_of_words_and_tags(write: Write) -> None:
    table = table_of(write("a.conll", "Ann\tB-PER\nran\tO\n\n\nIt\tO\n"))
    assert table.columns == {"text": [["Ann", "ran"], ["It"]], "label": [["B-PER", "O"], ["O"]]}
    assert [table.place(row).rpartition(":")[2] for row in range(2)] == ["1", "5"]


def test_lines_of_white_space_and_of_document_starts_end_a_sentence(write: Write) -> None:
    lines = ["-DOCSTART- -X- O", "", "Ann NNP B-PER", " \t", "ran VB O", "-DOCSTART- O", "it PRP O"]
    table = table_of(write("a.conll", "\r\n".join(lines)))
    assert table.columns["text"] == [["Ann"], ["ran"], ["it"]]
    assert table.columns["label"] == [["B-PER"], ["O"], ["O"]]
    assert table.lines == [3, 5, 7]


def test_every_column_has_a_number(write: Write) -> None:
    path = write("a.conll", "Ann NNP B-PER\nran  VB \t O\n")
    assert table_of(path, "column_1", "column_2").columns["column_2"] == [["NNP", "VB"]]
    names = ["text", "label", "column_1", "column_2", "column_3"]
    assert read_header(SplitSource(path=path)) == names


def test_words_hold_spaces_where_tabs_separate(write: Write) -> None:
    table = table_of(write("a.conll", "New York\tB-LOC\n#tag\tO\n# 1\tO\n"))
    assert table.columns["text"] == [["New York", "#tag", "# 1"]]


def test_comments_of_a_file_with_tabs_are_left_out(write: Write) -> None:
    text = "# sent_id = 1\n# text = Ann\n1\tAnn\tPROPN\n# a comment\n2\tran\tVERB\n"
    table = table_of(write("a.conll", text), "column_2")
    assert table.columns["column_2"] == [["Ann", "ran"]]
    assert table.columns["label"] == [["PROPN", "VERB"]]


def test_a_number_sign_is_a_word_where_spaces_separate(write: Write) -> None:
    assert table_of(write("a.conll", "# O\n1 O\n")).columns["text"] == [["#", "1"]]


def test_white_space_of_other_kinds_is_part_of_a_word(write: Write) -> None:
    assert table_of(write("a.conll", "\u00a0 O\nb\u2003c O\n")).columns["text"] == [
        ["\u00a0", "b\u2003c"]
    ]


def test_a_file_of_one_column_has_no_label(write: Write) -> None:
    path = write("a.conll", "Ann\nran\n")
    assert table_of(path).columns == {"text": [["Ann", "ran"]]}
    assert "no column 'label'" in mistake_of(path, "text", "label")


def test_another_number_of_columns_is_refused_with_its_line(write: Write) -> None:
    mistake = mistake_of(write("a.conll", "Ann\tB-PER\n\nran\n"))
    assert mistake.startswith(str(write("a.conll", "Ann\tB-PER\n\nran\n")) + ":3: has 1 column")


def test_a_tag_without_a_word_is_refused_with_its_line(write: Write) -> None:
    assert ":2: has no word" in mistake_of(write("a.conll", "Ann\tB-PER\n\tO\n"))


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_tokens_has_no_rows(write: Write, text: str) -> None:
    path = write("a.conll", text)
    assert "has no rows" in mistake_of(path)
    assert read_header(SplitSource(path=path)) == []


def test_lines_that_end_with_a_carriage_return_alone_are_refused(write: Write) -> None:
    assert "carriage return alone" in mistake_of(write("a.conll", "Ann O\rran O\r"))


def test_a_file_of_another_name_is_read_where_its_format_is_given(write: Write) -> None:
    assert len(table_of(write("eng.train", "Ann O\n"), format="conll")) == 1


def test_quoting_is_no_setting_of_it(write: Write) -> None:
    with pytest.raises(ValueError, match="belongs to csv and tsv, and the file is conll"):
        SplitSource(path=write("a.conll", ""), quoting="none")


TAGGED = {
    "words": datasets.List(datasets.Value("string")),
    "tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
}
ROWS = {"words": [["Ann", "ran"], ["it"]], "tags": [[1, 0], [-1]]}


def test_ids_in_lists_become_names_by_a_parquet_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(ROWS, features=datasets.Features(TAGGED)).to_parquet(path)
    assert table_of(path, "words", "tags").columns == {
        "words": [["Ann", "ran"], ["it"]],
        "tags": [["B-PER", "O"], [None]],
    }


def test_ids_in_lists_become_names_by_the_features_of_a_dataset(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(ROWS, features=datasets.Features(TAGGED)).to_parquet(
        tmp_path / "train.parquet"
    )
    source = SplitSource(hub=str(tmp_path), split="train")
    assert read_table(source, ("words", "tags"), ()).columns["tags"] == [["B-PER", "O"], [None]]


def test_an_id_in_a_list_outside_the_names_is_refused(tmp_path: Path) -> None:
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"tags": {"feature": {"names": ["O"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    schema = pa.schema(
        [("tags", pa.list_(pa.int64()))],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(pa.table({"tags": [[0], [0, 4]]}, schema=schema), tmp_path / "a.parquet")
    mistake = mistake_of(tmp_path / "a.parquet", "tags")
    assert "row 1 (the first is 0): tags 4 is outside 0..0" in mistake
