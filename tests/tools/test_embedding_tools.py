"""Texts that recipes for sentence embeddings are measured on, and forms of their vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILES = {
    "corpus.tsv": "doc_id\ttext\n" + "".join(f"d{row}\tdocument {row}\n" for row in range(12)),
    "queries-train.tsv": 'query_id\ttext\nt0\ttrain query\nt1\tQuery 3\nt2\ta "quote\n',
    "queries-dev.tsv": "query_id\ttext\n" + "".join(f"q{row}\tquery {row}\n" for row in range(8)),
    "qrels-dev.tsv": "query-id\tcorpus-id\tscore\n"
    + "".join(f"q{row}\td{row}\t1\n" for row in range(8)),
}


@pytest.fixture(scope="module")
def quality(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("vector_quality")


def test_no_text_is_in_two_splits_and_queries_stay_with_what_they_look_for(
    load_script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    script = load_script("make_embedding_texts")
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["make", str(tmp_path), "--output", str(out)])
    assert script.main() == 0
    search, certification, train = (
        set((out / f"{name}.tsv").read_text().splitlines()[1:])
        for name in ("search", "certification", "train")
    )
    assert (len(search), len(certification)) == (4, 12)
    assert {text.split()[1] for text in search if text.startswith("query")} == {
        text.split()[1] for text in search if text.startswith("document")
    }
    # `Query 3` is a text of another split already, but for its capital.
    assert train == {"train query", 'a "quote', *(f"document {row}" for row in range(8, 12))}
    asked = (out / "retrieval" / "queries.tsv").read_text().splitlines()[1:]
    assert {line.split("\t")[1] for line in asked} < certification


def test_codes_with_a_range_for_each_dimension_are_those_of_sentence_transformers(
    quality: ModuleType,
):
    # Ranges 0..2.55 and -1..1.55, so steps of 0.01: floor((x - start) / step) - 128.
    index = np.array([[0.0, -1.0], [2.55, 1.55]], np.float32)
    vectors = np.array([[0.105, 0.005], [9.0, -9.0]], np.float32)
    codes = quality._int8_by_dimension(vectors, index)
    assert codes.tolist() == [[-118.0, -28.0], [127.0, -128.0]]


def test_forms_keep_what_they_should_of_a_vector(quality: ModuleType):
    vectors = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    int8 = quality._int8(vectors, vectors)
    assert np.abs(int8).max() == 127
    assert np.corrcoef(int8.ravel(), vectors.ravel())[0, 1] > 0.999
    np.testing.assert_array_equal(quality._bits(vectors, vectors), np.sign(vectors))
