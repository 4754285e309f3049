"""The report knows where rows came from and which of them were seen before."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from compressor.data import Dataset, describe_splits, fingerprint, rows_as_json


def split(name: str, *texts: str) -> Dataset:
    labels = np.zeros(len(texts), dtype=np.int64)
    return Dataset(name, texts, labels, np.arange(len(texts)), f"{name}.csv")


def test_examples_in_two_splits_are_counted_from_both_sides():
    train, search = split("train", "a", "b", "c"), split("search", "b", "b", "d")
    records = describe_splits({"train": train, "search": search})
    assert [record.shared_with for record in records] == [{"search": 1}, {"train": 2}]


def test_splits_without_common_examples_share_nothing():
    records = describe_splits({"train": split("train", "a"), "search": split("search", "b")})
    assert [record.shared_with for record in records] == [{}, {}]


def test_a_pair_is_not_its_texts_run_together():
    one = dataclasses.replace(split("train", "x"), examples=(("ab", "c"),))
    other = dataclasses.replace(split("search", "x"), examples=(("a", "bc"),))
    assert describe_splits({"train": one, "search": other})[0].shared_with == {}


def grouped(name: str, groups: list[int], *examples: tuple[str, str]) -> Dataset:
    own = dataclasses.replace(split(name, *map(str, range(len(examples)))), examples=examples)
    return dataclasses.replace(own, groups=np.array(groups))


def test_questions_share_what_their_contexts_do_and_candidates_what_their_queries_do():
    train = grouped("train", [0, 0, 1], ("who?", "a"), ("where?", "a"), ("who?", "b"))
    search = grouped("search", [0, 1], ("who?", "c"), ("why?", "b"))
    records = describe_splits({"train": train, "search": search})
    assert [record.shared_with for record in records] == [{"search": 1}, {"train": 1}]
    train = grouped("train", [0, 0, 1], ("q", "a"), ("q", "b"), ("r", "a"))
    search = grouped("search", [0, 1], ("q", "c"), ("s", "a"))
    records = describe_splits({"train": train, "search": search})
    assert [record.shared_with for record in records] == [{"search": 2}, {"train": 1}]


def test_of_groups_that_no_text_tells_whole_examples_are_compared():
    train = grouped("train", [0, 1], ("who?", "a"), ("who?", "b"))
    search = grouped("search", [0, 1], ("who?", "b"), ("who?", "c"))
    assert describe_splits({"train": train, "search": search})[0].shared_with == {"search": 1}


def test_the_fingerprint_depends_on_examples_labels_and_nothing_else():
    one = split("train", "a", "b")
    renamed = dataclasses.replace(one, name="search", source="elsewhere")
    relabelled = dataclasses.replace(one, labels=np.array([0, 1]))
    assert fingerprint(one) == fingerprint(renamed)
    assert fingerprint(one) != fingerprint(relabelled)


def test_positions_are_written_as_json_writes_them():
    rows = {"train": np.arange(70_000) * 3, 'se"arch': np.arange(1), "none": np.arange(0)}
    wanted = {name: positions.tolist() for name, positions in rows.items()}
    assert rows_as_json(rows) == json.dumps(wanted)
    assert rows_as_json({}) == "{}"
