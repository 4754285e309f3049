"""Documents without tags whose names were exchanged, for the distillation of a tagger."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

WORDS = ["Ann", "Lee", "ran", "home", "to", "Rome"]
TAGS = ["B-person", "I-person", "O", "O", "O", "B-location"]


@pytest.fixture
def draw() -> random.Random:
    return random.Random(0)  # noqa: S311 - no secret


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("make_ner_texts")


def test_a_whole_entity_gives_way_to_a_name(
    tool: ModuleType, draw: random.Random, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tool, "_ENTITY_RATE", 1.0)
    monkeypatch.setattr(tool, "_WORD_RATE", 0.0)
    found = tool.renamed((WORDS, TAGS), [["Bergman"]], draw)
    assert found == ["Bergman", "ran", "home", "to", "Bergman"]


def test_words_outside_entities_give_way_at_a_rate_of_their_own(
    tool: ModuleType, draw: random.Random, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tool, "_ENTITY_RATE", 0.0)
    monkeypatch.setattr(tool, "_WORD_RATE", 1.0)
    found = tool.renamed((WORDS, TAGS), [["New", "York"]], draw)
    assert found == ["Ann", "Lee", *["New", "York"] * 3, "Rome"]


def test_names_are_entities_and_capitalised_lemmas_of_few_words(tool: ModuleType):
    assert tool.names_of([(WORDS, TAGS)]) == [["Ann", "Lee"], ["Rome"]]
    glosses = ["Bergman, Ingrid Bergman: actress", "able: Having", "A B C D: too long"]
    assert tool.lemma_names(glosses) == [["Bergman"], ["Ingrid", "Bergman"]]


def test_the_same_files_give_the_same_bytes_without_any_tag(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lines = "".join(f"{word}\t{tag}\n" for word, tag in zip(WORDS, TAGS, strict=True))
    (tmp_path / "train.conll").write_text(f"{lines}\n{lines}\n")
    (tmp_path / "corpus.tsv").write_text("doc_id\ttext\na\tBergman: Swedish actress\n")
    (tmp_path / "queries-train.tsv").write_text("query_id\ttext\nq\tit ran, and stopped.\n")
    written = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for path in written:
        typed = [str(tmp_path / "train.conll"), "--wordnet", str(tmp_path), "--output", str(path)]
        monkeypatch.setattr("sys.argv", ["make_ner_texts.py", *typed, "--copies", "3"])
        assert tool.main() == 0
    assert written[0].read_bytes() == written[1].read_bytes()
    rows = [json.loads(line) for line in written[0].read_text().splitlines()]
    assert len(rows) == 2 * 3 + 1
    assert {tuple(row) for row in rows} == {("text",)}
    assert rows[-1]["text"] == ["it", "ran", ",", "and", "stopped", "."]
