"""Rows that shall prove something have to be rows of their own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from compressor.data import Dataset, DataSettings, SplitSource, load_splits, repeated
from compressor.data.describe import describe_splits
from compressor.tasks import load_task
from compressor.tasks.examples import Words


def split(name: str, *examples: object, groups: list[int] | None = None) -> Dataset:
    return Dataset(
        name,
        examples,  # type: ignore[arg-type] # of any kind
        None,
        np.arange(len(examples)),
        f"{name}.csv",
        groups=None if groups is None else np.array(groups),
    )


TEXTS = tuple(f"text {number}" for number in range(40))


def test_copies_of_few_texts_are_refused_and_a_few_copies_are_not():
    assert repeated(split("certification", *TEXTS, TEXTS[0]), {}) is None
    why = repeated(split("certification", *TEXTS[:3] * 20), {})
    assert why is not None
    assert why.startswith("60 rows hold 3 different inputs")


def test_a_few_texts_that_come_often_among_many_that_come_once_are_no_fault():
    assert repeated(split("certification", *TEXTS, *TEXTS[:1] * 60), {}) is None
    assert repeated(split("certification", *TEXTS, *TEXTS[:20]), {}) is None
    assert repeated(split("certification", *TEXTS, *TEXTS[:21]), {}) is not None


def test_case_and_spaces_make_no_other_text():
    copies = [f"{text.upper()} " for text in TEXTS]
    assert repeated(split("certification", *TEXTS, *copies), {}) is not None


def test_rows_that_were_read_before_are_refused_by_the_name_of_their_split():
    own = split("certification", *TEXTS)
    others = {"search": split("search", *TEXTS[:20]), "train": split("train", *TEXTS[:21])}
    why = repeated(own, others)
    assert why is not None
    assert why.startswith("21 of 40 rows stand in the train split too")


def test_of_candidates_the_queries_count():
    pairs = [(f"query {number // 2 % 10}", TEXTS[number]) for number in range(40)]
    groups = [number // 2 for number in range(40)]  # 20, of ten queries
    why = repeated(split("certification", *pairs, groups=groups), {})
    assert why is not None
    assert why.startswith("20 queries hold 10 different inputs")
    assert repeated(split("certification", *pairs[:20], groups=groups[:20]), {}) is None


def test_of_questions_the_contexts_count():
    asked = [("who was it?", text) for text in TEXTS[:20] for _ in range(2)]
    groups = [number // 2 for number in range(40)]
    assert repeated(split("certification", *asked, groups=groups), {}) is None
    each = [("who was it?", text) for text in TEXTS]
    assert repeated(split("certification", *each, groups=list(range(40))), {}) is None
    copies = split("certification", *asked, *asked, groups=[*groups, *(20 + g for g in groups)])
    assert repeated(copies, {}) is not None


def load_questions(folder: Path, name: str, question: str) -> Dataset:
    rows = [{"q": question, "c": text, "a": {"text": [], "answer_start": []}} for text in TEXTS]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_splits(
        DataSettings(text=("q", "c"), label="a", search=SplitSource(path=path)),
        label_names=(),
        columns=load_task("question-answering").columns("answer_f1"),
        needed=["search"],
        seed=0,
    )["search"]


def test_contexts_of_one_question_each_are_known_with_another_question(tmp_path: Path):
    read = load_questions(tmp_path, "search", "who?")
    own = load_questions(tmp_path, "certification", "why?")
    why = repeated(own, {"search": read})
    assert why is not None
    assert why.startswith("40 of 40 contexts stand in the search split too")
    [_, record] = describe_splits({"search": read, "certification": own})
    assert record.shared_with == {"search": 40}


def test_of_graded_pairs_both_texts_count():
    texts = [text for other in TEXTS[1:] for text in (TEXTS[0], other)]
    graded = dataclasses.replace(split("certification", *texts), grades=np.arange(39.0))
    assert repeated(graded, {}) is None
    twice = dataclasses.replace(split("certification", *texts, *texts), grades=np.arange(78.0))
    assert repeated(twice, {}) is not None


def test_documents_are_compared_by_their_words():
    documents = [Words((text, "end")) for text in TEXTS]
    assert repeated(split("certification", *documents), {}) is None
    assert repeated(split("certification", *documents, *documents), {}) is not None
