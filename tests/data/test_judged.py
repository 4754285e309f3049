"""Queries, documents and relevance are read from three files or from pairs, or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from compressor.data import Dataset, DataSettings, SplitSource, load_splits
from compressor.data.check import check_files
from compressor.data.describe import fingerprint
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.runtime.prompts import Document, Prompted, Query
from compressor.tasks import load_task
from compressor.tasks.columns import TextColumns

TASK = load_task("sentence-embedding")
NUM_QUERIES, NUM_DOCUMENTS = 20, 30


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def qrels(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    header = ("query-id", "corpus-id", "score")
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (header, *rows)))
    return path


@pytest.fixture
def beir(tmp_path: Path) -> dict[str, Any]:
    """Return the keys of a source in BEIR's layout: query i finds document i."""
    queries = [{"_id": f"q{i}", "text": f"find {i}", "metadata": {}} for i in range(NUM_QUERIES)]
    documents = [
        {"_id": f"d{i}", "title": "On it" if i == 0 else "", "text": f"about {i}"}
        for i in range(NUM_DOCUMENTS)
    ]
    return {
        "queries": lines(tmp_path / "queries.jsonl", queries),
        "corpus": lines(tmp_path / "corpus.jsonl", documents),
        "qrels": qrels(tmp_path / "test.tsv", [(f"q{i}", f"d{i}", 1) for i in range(NUM_QUERIES)]),
    }


def read(
    *needed: str, metric: str = "ndcg@10", labelled: bool = True, **splits: Any
) -> dict[str, Dataset]:
    shared = {key: splits.pop(key) for key in ("text", "label") if key in splits}
    return load_splits(
        DataSettings(**shared, **{name: SplitSource(**keys) for name, keys in splits.items()}),
        label_names=(),
        columns=TASK.columns(metric),
        needed=needed,
        seed=0,
        labelled=labelled,
    )


def queries_of(split: Dataset) -> list[Any]:
    return [example for example in split.examples if isinstance(example, Query)]


def test_queries_and_documents_are_examples_and_relevance_is_their_label(beir: dict[str, Any]):
    split = read("search", search=beir)["search"]
    assert split.examples[:2] == (Query("find 0"), Query("find 1"))
    assert split.examples[NUM_QUERIES] == Document("On it about 0")
    assert len(split) == NUM_QUERIES + NUM_DOCUMENTS == len(split.rows)
    assert split.labels is not None
    assert split.labels[0] == {"id": "q0", "relevant": {"d0": 1.0}}
    assert split.labels[NUM_QUERIES] == "d0"
    assert split.source == str(beir["qrels"])


def test_grades_and_several_documents_are_read_and_0_is_not_relevant(
    beir: dict[str, Any], tmp_path: Path
):
    rows = [("q1", "d5", 2), ("q1", "d3", 1), ("q1", "d4", 0), ("q0", "d5", 1)]
    split = read("search", search={**beir, "qrels": qrels(tmp_path / "x.tsv", rows)})["search"]
    assert queries_of(split) == [Query("find 1"), Query("find 0")]
    assert split.labels is not None
    assert split.labels[0]["relevant"] == {"d5": 2.0, "d3": 1.0}
    assert len(split) == 2 + NUM_DOCUMENTS


def test_other_names_of_columns_numbers_as_ids_and_parquet_do_as_well(tmp_path: Path):
    (tmp_path / "queries.csv").write_text("query_id,text\n7,find it\n")
    table = pa.table({"doc_id": list(range(30)), "text": [f"about {i}" for i in range(30)]})
    pa.parquet.write_table(table, tmp_path / "corpus.parquet")
    source = {
        "queries": tmp_path / "queries.csv",
        "corpus": tmp_path / "corpus.parquet",
        "qrels": qrels(tmp_path / "x.tsv", [(7, 3, 1)]),
    }
    split = read("search", search=source)["search"]
    assert split.examples[:2] == (Query("find it"), Document("about 3"))


def test_a_cut_shares_documents_and_no_query(beir: dict[str, Any]):
    splits = read("search", "certification", search=beir)
    one, other = (set(queries_of(splits[name])) for name in ("search", "certification"))
    assert len(one) == len(other) == NUM_QUERIES / 2
    assert not one & other
    assert {len(split) for split in splits.values()} == {NUM_QUERIES / 2 + NUM_DOCUMENTS}


def test_max_rows_counts_queries_and_max_documents_what_is_searched(beir: dict[str, Any]):
    split = read("search", search={**beir, "max_rows": 4, "max_documents": 10})["search"]
    assert len(queries_of(split)) == 4
    assert len(split) == 14
    assert split.labels is not None
    relevant = {name for label in split.labels[:4] for name in label["relevant"]}
    assert relevant == set(split.labels[4:8])


def test_training_and_calibration_read_queries_and_what_is_relevant_to_them(beir: dict[str, Any]):
    splits = read("search", "train", search=beir)
    assert len(splits["train"]) == NUM_QUERIES  # half of the queries, and a document for each
    assert splits["train"].labels is None


def test_scores_without_labels_read_queries_and_documents_too(beir: dict[str, Any]):
    split = read("search", metric="cosine", labelled=False, search=beir)["search"]
    assert isinstance(split.examples[0], Query)
    assert len(split) == NUM_QUERIES + NUM_DOCUMENTS


def pairs(path: Path, **more: list[Any]) -> Path:
    columns = {
        "question": ["who", "what", "who", "when"],
        "answer": ["me", "that", "you", "me"],
        **more,
    }
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return lines(path, rows)


def test_pairs_are_queries_with_a_relevant_document_each(tmp_path: Path):
    source = {"path": pairs(tmp_path / "pairs.jsonl")}
    split = read("search", text=("question", "answer"), search=source)["search"]
    assert split.examples == (
        *(Query("who"), Query("what"), Query("when")),
        *(Document("me"), Document("that"), Document("you")),
    )
    assert split.labels is not None
    assert split.labels[0]["relevant"] == {"document 0": 1.0, "document 2": 1.0}
    assert split.rows.tolist() == [0, 1, 3, 0, 1, 2]
    assert split.grades is None


def test_a_label_column_says_how_relevant_the_document_of_a_pair_is(tmp_path: Path):
    source = {"path": pairs(tmp_path / "pairs.jsonl", grade=[2, 1, 0, 1]), "label": "grade"}
    split = read("search", text=("question", "answer"), search=source)["search"]
    assert split.labels is not None
    assert split.labels[0]["relevant"] == {"document 0": 2.0}
    assert Document("you") in split.examples


def test_a_label_that_is_no_grade_is_refused(tmp_path: Path):
    source = {"path": pairs(tmp_path / "pairs.jsonl", label=["yes", 1, -1, 1])}
    with pytest.raises(RecipeError) as refused:
        read("search", text=("question", "answer"), search=source)
    assert len(refused.value.mistakes) == 2
    assert "label must be a number of 0 or more" in refused.value.mistakes[0]


def test_one_column_of_texts_is_no_retrieval(tmp_path: Path):
    source = {"path": pairs(tmp_path / "pairs.jsonl")}
    with pytest.raises(RecipeError, match="or give queries, corpus and qrels in place of path"):
        read("search", text="question", search=source)
    assert len(read("train", text="question", train=source)["train"]) == 4


def test_no_other_task_reads_relevance(beir: dict[str, Any]):
    with pytest.raises(RecipeError, match="which sentence-embedding reads alone"):
        load_splits(
            DataSettings(search=SplitSource(**beir)),
            label_names=("a", "b"),
            columns=TextColumns(),
            needed=["search"],
            seed=0,
        )


def rows_with(extra: Sequence[Any]) -> list[Sequence[Any]]:
    return [("q0", "d0", 1), extra]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("q99", "d0", 1), "test.tsv:3: query-id 'q99' is no query of the file of queries"),
        (("q1", "d99", 1), "test.tsv:3: corpus-id 'd99' is no document of the corpus"),
        (("q1", "d1", "much"), "test.tsv:3: score must be a number of 0 or more, got 'much'"),
        (("q1", "d1", -1), "test.tsv:3: score must be a number of 0 or more, got '-1'"),
        (("q0", "d0", 2), "test.tsv:3: 'q0' and 'd0' stand twice"),
        (("q1", "d1", 0), "no document is relevant to q1"),
    ],
)
def test_relevance_that_cannot_be_is_refused_with_its_line(
    beir: dict[str, Any], row: Sequence[Any], reason: str
):
    qrels(beir["qrels"], rows_with(row))
    with pytest.raises(RecipeError) as refused:
        read("search", search=beir)
    [mistake] = refused.value.mistakes
    assert mistake.startswith("data.search: ")
    assert reason in mistake


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"_id": "d0", "text": "again"}, "_id 'd0' stands twice"),
        ({"_id": "d31", "text": " "}, "text is empty"),
        ({"_id": "", "text": "x"}, "_id must be text or a whole number"),
        ({"_id": "d31", "text": "x", "title": 1984}, "title must be text, got 1984"),
        ({"_id": "d31", "text": "", "title": 1984}, "title must be text, got 1984"),
        ({"_id": "d31", "text": 7, "title": "x"}, "text must be text, got 7"),
    ],
)
def test_a_document_that_cannot_be_is_refused_with_its_line(
    beir: dict[str, Any], row: Any, reason: str
):
    with beir["corpus"].open("a") as stream:
        stream.write(json.dumps({"title": "", **row}) + "\n")
    with pytest.raises(RecipeError) as refused:
        read("search", search=beir)
    [mistake] = refused.value.mistakes
    assert f"corpus.jsonl:{NUM_DOCUMENTS + 1}: {reason}" in mistake


def test_a_document_without_text_is_its_title(beir: dict[str, Any]):
    with beir["corpus"].open("a") as stream:
        stream.write(json.dumps({"_id": "d30", "title": "alone", "text": ""}) + "\n")
        stream.write(json.dumps({"_id": "d31", "title": "by itself", "text": None}) + "\n")
    examples = read("search", search=beir)["search"].examples
    assert list(examples[-2:]) == [Document("alone"), Document("by itself")]


def test_a_document_that_is_its_own_query_is_relevant_to_nobody(beir: dict[str, Any]):
    with beir["corpus"].open("a") as stream:  # searched for all queries but that of its id
        stream.write(json.dumps({"_id": "q1", "text": "find 1"}) + "\n")
    rows = [("q0", "d0", 1), ("q1", "d1", 1)]
    qrels(beir["qrels"], [*rows, ("q1", "q1", 0)])
    assert len(read("search", search=beir)["search"]) == 2 + NUM_DOCUMENTS + 1
    qrels(beir["qrels"], [*rows, ("q1", "q1", 2)])
    with pytest.raises(RecipeError) as refused:
        read("search", search=beir)
    [mistake] = refused.value.mistakes
    assert "test.tsv:4: 'q1' is relevant to the query of the same id" in mistake
    assert "is not searched for it" in mistake


def test_headers_are_checked_before_anything_is_read(beir: dict[str, Any], tmp_path: Path):
    (tmp_path / "test.tsv").write_text("query\tdocument\nq0\td0\n")
    lines(tmp_path / "queries.jsonl", [{"text": "x"}])
    with pytest.raises(RecipeError) as refused:
        check_files(DataSettings(search=SplitSource(**beir)))
    keys = [mistake.rpartition(": ")[0].split(": ")[1] for mistake in refused.value.mistakes]
    assert keys == ["qrels", "queries"]
    (tmp_path / "corpus.jsonl").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"data\.search\.corpus: .*corpus\.jsonl"):
        check_files(DataSettings(search=SplitSource(**beir)))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"queries": None}, "queries"),
        ({"corpus": None}, "corpus"),
        ({"text": "title"}, "text"),
        ({"label": "score"}, "label"),
        ({"quoting": "none"}, "quoting"),
        ({"qrels": Path("qrels.txt")}, "qrels"),
        ({"path": Path("rows.csv")}, ""),
    ],
)
def test_keys_that_do_not_go_together_are_refused(
    beir: dict[str, Any], changes: dict[str, Any], key: str
):
    with pytest.raises(ValidationError) as refused:
        SplitSource(**{**beir, **changes})
    assert [".".join(map(str, error["loc"])) for error in refused.value.errors()] == [key]


@pytest.mark.parametrize(
    "keys", [{"queries": Path("q.csv")}, {"corpus": Path("c.csv")}, {"max_documents": 5}]
)
def test_keys_of_three_files_are_refused_without_them(keys: Any):
    with pytest.raises(ValidationError, match="belongs to qrels"):
        SplitSource(path=Path("rows.csv"), **keys)


def test_the_same_relevance_certifies_nothing_and_other_queries_do(
    beir: dict[str, Any], tmp_path: Path
):
    other = {**beir, "qrels": qrels(tmp_path / "other.tsv", [("q1", "d1", 1)])}
    assert not SplitSource(**beir).shares_rows_with(SplitSource(**other))
    with pytest.raises(ValidationError, match=r"reads the same rows as data\.search"):
        DataSettings(search=SplitSource(**beir), certification=SplitSource(**beir))


def test_relevance_is_part_of_the_fingerprint(beir: dict[str, Any], tmp_path: Path):
    other = {
        **beir,
        "qrels": qrels(tmp_path / "other.tsv", [(f"q{i}", f"d{i}", 2) for i in range(20)]),
    }
    found = [read("search", search=source)["search"] for source in (beir, other)]
    assert np.array_equal(found[0].rows, found[1].rows)
    assert found[0].examples == found[1].examples
    assert fingerprint(found[0]) != fingerprint(found[1])


def test_texts_of_a_split_are_read_after_the_prompt_that_it_names(tmp_path: Path):
    source = {"path": pairs(tmp_path / "pairs.jsonl"), "prompt_name": "query"}
    keys = {"metric": "cosine", "labelled": False, "text": ("question", "answer")}
    split = read("search", search=source, **keys)["search"]
    assert split.examples[:2] == (Prompted("who", "query"), Prompted("me", "query"))
    plain = read("search", search={"path": source["path"]}, **keys)["search"]
    assert plain.examples[:2] == ("who", "me")
    assert fingerprint(plain) != fingerprint(split)


def test_a_prompt_for_what_has_its_own_is_refused(tmp_path: Path, beir: dict[str, Any]):
    source = {"path": pairs(tmp_path / "pairs.jsonl"), "prompt_name": "query"}
    with pytest.raises(RecipeError, match=r"data\.search: prompt_name: queries and documents"):
        read("search", search=source, text=("question", "answer"))
    with pytest.raises(ValidationError, match="queries and documents have their own"):
        SplitSource(**beir, prompt_name="query")


def test_a_prompt_for_a_task_without_any_is_refused(tmp_path: Path):
    source = SplitSource(path=pairs(tmp_path / "pairs.jsonl"), prompt_name="query")
    with pytest.raises(RecipeError, match="the task reads no prompts"):
        load_splits(
            DataSettings(text="question", train=source),
            label_names=("a", "b"),
            columns=TextColumns(),
            needed=["train"],
            seed=0,
        )


def test_spare_rows_of_calibration_are_read_after_the_prompt_of_train(tmp_path: Path):
    path = pairs(tmp_path / "pairs.jsonl")
    splits = load_splits(
        DataSettings(
            text="question",
            train=SplitSource(path=path, prompt_name="query"),
            calibration=SplitSource(path=pairs(tmp_path / "other.jsonl"), prompt_name="passage"),
        ),
        label_names=(),
        columns=TASK.columns("cosine"),
        needed=["calibration"],
        seed=0,
        labelled=False,
        spare_rows=40,
    )
    calibration = splits["calibration"].joined(8)
    assert [item.prompt_name for item in calibration.examples] == ["passage"] * 4 + ["query"] * 4


def test_a_cut_has_all_documents_of_a_query_on_one_side(tmp_path: Path):
    rows = [{"question": f"ask {i % 10}", "answer": f"say {i}"} for i in range(40)]
    source = {"path": lines(tmp_path / "rows.jsonl", rows)}
    splits = read("search", "certification", text=("question", "answer"), search=source)
    one, other = (set(queries_of(splits[name])) for name in ("search", "certification"))
    assert one
    assert other
    assert not one & other
    assert len(one | other) == 10


def test_relevance_is_no_grade_of_pairs(beir: dict[str, Any]):
    with pytest.raises(RecipeError, match=r"data\.search: qrels: .*or take recall@10"):
        read("search", metric="spearman", search=beir)


def test_queries_of_three_files_are_in_no_other_groups(beir: dict[str, Any]):
    with pytest.raises(RecipeError, match=r"remove data\.group"):
        load_splits(
            DataSettings(search=SplitSource(**beir), group="topic"),
            label_names=(),
            columns=TASK.columns("ndcg@10"),
            needed=["search"],
            seed=0,
        )


def test_a_pair_without_a_query_is_refused_with_its_line(tmp_path: Path):
    rows = [{"question": None, "answer": "b"}, {"question": "a", "answer": "b"}]
    source = {"path": lines(tmp_path / "rows.jsonl", rows)}
    with pytest.raises(RecipeError, match=r"rows\.jsonl:1: question is missing"):
        read("search", text=("question", "answer"), search=source)
