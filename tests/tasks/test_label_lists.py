from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.data import Dataset, DataSettings, SplitSource, load_splits, row_files
from compressor.data.describe import fingerprint
from compressor.tasks.answer_columns import QuestionColumns
from compressor.tasks.answers import GoldAnswer
from compressor.tasks.columns import Columns
from compressor.tasks.label_columns import LabelSetColumns
from compressor.tasks.label_lists import LabelLists, joined
from compressor.tasks.word_columns import WordColumns

LISTS = [[3, 1], [], [0, 2, 2], [1]]


@pytest.fixture(params=[False, True], ids=["in memory", "in a file"])
def lists(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LabelLists:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path))
    return LabelLists.of(
        map(np.array, LISTS), kept_as=np.uint8, dtype=np.int64, in_file=request.param
    )


def test_labels_are_those_that_were_given_in_their_type(lists: LabelLists):
    assert [item.tolist() for item in lists] == LISTS
    assert {item.dtype for item in lists} == {np.dtype(np.int64)}
    assert len(lists) == 4
    assert lists[-1].tolist() == [1]


def test_labels_are_chosen_by_places_as_those_of_an_array_are(lists: LabelLists):
    chosen = lists[np.array([2, 0, 2])]
    assert [item.tolist() for item in chosen] == [[0, 2, 2], [3, 1], [0, 2, 2]]
    assert [item.tolist() for item in chosen[1:]] == [[3, 1], [0, 2, 2]]
    assert [item.tolist() for item in lists[np.array([True, False, False, True])]] == [[3, 1], [1]]


def test_all_labels_are_joined_in_their_order(lists: LabelLists):
    assert joined(lists, np.int64).tolist() == [3, 1, 0, 2, 2, 1]
    assert joined([], np.int64).tolist() == []


def test_a_file_of_no_values_holds_empty_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path))
    found = LabelLists.of([np.zeros(0, int)] * 2, kept_as=np.uint8, dtype=np.int64, in_file=True)
    assert [item.tolist() for item in found] == [[], []]


def test_more_rows_than_are_put_together_at_once_stay_in_order(lists: LabelLists):
    def rows() -> Iterator[NDArray[Any]]:
        return (np.arange(row % 3) + row % 200 for row in range(10_000))

    found = LabelLists.of(rows(), kept_as=np.uint8, dtype=np.int64, in_file=True)
    assert all(map(np.array_equal, found, rows()))
    assert len(found) == sum(1 for _ in rows())


ROWS = {
    "words": '{"text": ["New", "York"], "label": ["B-LOC", "I-LOC"]}\n'
    '{"text": ["a"], "label": ["O"]}\n',
    "sets": '{"text": "both", "label": ["x", "y"]}\n{"text": "none", "label": []}\n',
    "flags": '{"text": "a", "label": [0, 1]}\n{"text": "b", "label": [1, 1]}\n',
    "answers": '{"text": "q", "context": "a b", "label": {"text": ["b"], "answer_start": [2]}}\n'
    '{"text": "p", "context": "c d", "label": {"text": [], "answer_start": []}}\n',
}
KINDS: dict[str, tuple[Columns, tuple[str, ...], list[Any]]] = {
    "words": (WordColumns(), ("O", "B-LOC", "I-LOC"), [[1, 2], [0]]),
    "sets": (LabelSetColumns(), ("x", "y"), [[True, True], [False, False]]),
    "flags": (LabelSetColumns(), ("x", "y"), [[False, True], [True, True]]),
    "answers": (QuestionColumns(), ("a", "b"), [[GoldAnswer("b", 2)], []]),
}


def read(kind: str, folder: Path) -> Dataset:
    path = folder / "rows.jsonl"
    path.write_text(ROWS[kind] * 50)
    columns, names, _ = KINDS[kind]
    text = ["text", "context"] if kind == "answers" else "text"
    settings = DataSettings.model_validate({"text": text, "search": SplitSource(path=path)})
    return load_splits(settings, label_names=names, columns=columns, needed=["search"], seed=0)[
        "search"
    ]


@pytest.mark.parametrize("kind", ROWS)
def test_labels_of_a_large_source_are_those_of_a_small_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path))
    small = read(kind, tmp_path)
    monkeypatch.setattr(row_files, "KEPT_BYTES", 1)
    large = read(kind, tmp_path)
    wanted = list(itertools.islice(itertools.cycle(KINDS[kind][2]), 100))
    for split in (small, large):
        assert split.labels is not None
        assert [list(item) for item in split.labels] == wanted
        assert [list(item) for item in split.labels[np.array([3, 0])]] == [wanted[3], wanted[0]]
    assert not isinstance(large.labels, np.ndarray)
    assert fingerprint(small) == fingerprint(large)
