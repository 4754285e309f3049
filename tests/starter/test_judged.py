"""A starter recipe for what queries find: a folder of three kinds of files, or pairs in columns."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import compressor
from compressor.errors import RecipeError
from compressor.pipeline.preflight import load_whole
from compressor.runtime.prompts import Document, Query
from compressor.starter.columns import Asked, guess
from compressor.starter.judged import judged_source, splits_in
from compressor.starter.write import write_starter

WORDS = ("bad", "good", "was", "film", "and", "plot", "very", "dull", "story", "lovely")
DOCUMENTS = [" ".join(words) for words in itertools.combinations(WORDS, 3)]  # 120


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def encoder(tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder with prompts, so that words in common find less and pass for no model."""
    copy = shutil.copytree(tiny_encoder_dir, tmp_path_factory.mktemp("prompts") / "encoder")
    prompts = {"prompts": {"query": "the ", "passage": "quite "}}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return copy


@pytest.fixture(scope="module")
def found(encoder: Path) -> list[tuple[str, int]]:
    """Return queries with the document that the encoder finds first."""
    model = compressor.load_checkpoint(encoder)
    random = np.random.default_rng(0)
    queries = [" ".join(random.choice(WORDS, 5)) for _ in range(240)]
    vectors = [
        model.predict(model.task.encode(model.preprocessor, [kind(text) for text in texts]))
        for kind, texts in ((Query, queries), (Document, DOCUMENTS))
    ]
    nearest = (vectors[0] @ vectors[1].T).argmax(axis=1)
    return list(zip(queries, nearest.tolist(), strict=True))


@pytest.fixture
def beir(found: list[tuple[str, int]], tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    write_lines(
        folder / "corpus.jsonl",
        ({"_id": f"d{row}", "title": "", "text": text} for row, text in enumerate(DOCUMENTS)),
    )
    write_lines(
        folder / "queries.jsonl",
        ({"_id": f"q{row}", "text": text} for row, (text, _) in enumerate(found)),
    )
    (folder / "qrels").mkdir()
    for name, rows in (("dev", range(120)), ("test", range(120, 240))):
        lines = [f"q{row}\td{found[row][1]}\t1\n" for row in rows]
        (folder / "qrels" / f"{name}.tsv").write_text(
            "query-id\tcorpus-id\tscore\n" + "".join(lines)
        )
    return folder


def test_a_folder_is_judged_by_its_development_queries_and_proven_by_its_test_queries(
    encoder: Path, beir: Path, tmp_path: Path
):
    output = tmp_path / "recipe.yaml"
    recipe = write_starter(str(encoder), beir, output)
    assert recipe.budget.metric == "recall@10"
    search = recipe.data.search
    assert search is not None
    assert search.qrels == beir / "qrels" / "dev.tsv"
    assert (search.queries, search.corpus) == (beir / "queries.jsonl", beir / "corpus.jsonl")
    text = output.read_text(encoding="utf-8")
    assert "qrels: ./beir/qrels/test.tsv" in text
    assert "120 queries, that judge every pass" in text
    assert "rows and 120 documents, of more it is lower" in text
    load_whole(output)  # as `compress validate` does


def test_pairs_of_query_and_document_are_searched(
    encoder: Path, found: list[tuple[str, int]], tmp_path: Path
):
    rows = [
        {"query": query, "positive": DOCUMENTS[place], "negative": DOCUMENTS[place - 1]}
        for query, place in found[:120]
    ]
    data = write_lines(tmp_path / "pairs.jsonl", rows)
    recipe = write_starter(str(encoder), data, tmp_path / "recipe.yaml")
    assert recipe.budget.metric == "recall@10"
    assert recipe.data.text == ("query", "positive")


@pytest.mark.parametrize(
    ("columns", "label", "searches"),
    [
        ({"query": "a b c", "passage": "d e f"}, None, True),
        ({"anchor": "a b c", "positive": "d e f", "negative_1": "g h i"}, None, True),
        ({"query": "a b c", "document": "d e f", "relevance": None}, "relevance", True),
        ({"sentence1": "a b c", "sentence2": "d e f"}, None, False),
        ({"query": "a b c", "passage": "d e f", "score": None}, "score", False),  # of similarity
    ],
)
def test_columns_tell_pairs_that_are_searched(
    columns: dict[str, str | None], label: str | None, searches: bool
):
    table = {key: [0, 1, 2] if text is None else [text] * 3 for key, text in columns.items()}
    told = guess("sentences", "rows.csv", table, Asked())
    assert (told.label, told.searches) == (label, searches)


def test_names_of_parts_say_which_file_judges(tmp_path: Path):
    for name in ("train", "validation", "test"):
        (tmp_path / f"qrels-{name}.tsv").write_text("query-id\tcorpus-id\tscore\n")
    assert splits_in(tmp_path) == {
        "search": tmp_path / "qrels-validation.tsv",
        "certification": tmp_path / "qrels-test.tsv",
        "train": tmp_path / "qrels-train.tsv",
    }
    (tmp_path / "qrels-validation.tsv").unlink()
    assert splits_in(tmp_path)["search"] == tmp_path / "qrels-test.tsv"
    (tmp_path / "qrels-more.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(RecipeError, match="none of them says that it is for development"):
        splits_in(tmp_path)


def test_a_folder_or_a_file_without_its_others_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"is a directory without qrels/\*\.tsv"):
        splits_in(tmp_path)
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(RecipeError, match=r"no queries\.jsonl \(or \.tsv, \.csv, \.parquet\)"):
        judged_source(qrels)
    (tmp_path / "rows.tsv").write_text("text\tlabel\n")
    assert judged_source(tmp_path / "rows.tsv") is None
