"""The tokens of a split are what encoding its rows gives, and are made once."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data import Dataset
from compressor.data.tokens import KeptTokens, encoded
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.torch_model import TorchModel
from compressor.tasks import Example, load_task
from compressor.tasks.stored_rows import MadeByRow
from compressor.tasks.text import TextTask

TEXTS = ["good film", "a dull story of the film " * 3, "bad", "the plot was fine", "unknown word ."]
PAIRS = [("good film", "bad"), ("the plot", "a dull story of the film " * 3), ("a", "b")]


def split(examples: Sequence[Example]) -> Dataset:
    return Dataset("train", tuple(examples), None, np.arange(len(examples)), "generated")


def stored(examples: Sequence[Example]) -> Dataset:
    rows = MadeByRow((), np.arange(len(examples)), lambda row: examples[row])
    return Dataset("train", rows, None, np.arange(len(examples)), "generated")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.mark.parametrize("make", [split, stored], ids=["in memory", "from a file"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [None, 8])
@pytest.mark.parametrize("examples", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_batches_are_those_of_the_tokenizer(
    tiny_bert: TorchModel,
    monkeypatch: pytest.MonkeyPatch,
    make: type[Dataset],
    side: str,
    max_length: int | None,
    examples: list[Example],
):
    monkeypatch.setattr(tiny_bert.preprocessor, "padding_side", side)
    task = replace(tiny_bert.task, max_length=max_length)
    dataset = make(examples)
    read = encoded(task, tiny_bert.preprocessor, dataset)
    assert isinstance(read, KeptTokens)
    assert read.counts.tolist() == task.token_counts(tiny_bert.preprocessor, examples).tolist()
    assert read.lengths.tolist() == task.lengths(tiny_bert.preprocessor, examples).tolist()
    for rows in ([2], [1, 0], list(range(len(examples)))[::-1]):
        wanted = task.encode(tiny_bert.preprocessor, [examples[row] for row in rows])
        found = read.batch(rows)
        assert list(found) == list(wanted)
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name], values, strict=True)


def test_texts_of_embeddings_are_read_after_their_prompts(tiny_bert: TorchModel):
    task = load_task("sentence-embedding")
    tokenizer = tiny_bert.preprocessor
    read = encoded(task, tokenizer, split(TEXTS))
    assert isinstance(read, KeptTokens)
    np.testing.assert_array_equal(
        read.batch([1, 2])["input_ids"], task.encode(tokenizer, TEXTS[1:3])["input_ids"]
    )


def test_images_are_encoded_when_they_are_read(tiny_vit: TorchModel, image_dataset: Dataset):
    read = encoded(tiny_vit.task, tiny_vit.preprocessor, image_dataset)
    wanted = tiny_vit.task.encode(tiny_vit.preprocessor, list(image_dataset.examples[3:5]))
    assert not isinstance(read, KeptTokens)
    assert read.lengths.tolist() == [0] * 48
    np.testing.assert_array_equal(read.batch([3, 4])["pixel_values"], wanted["pixel_values"])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many examples each call tokenized."""
    found: list[int] = []
    tokens = TextTask.tokens

    def counted(self: TextTask, preprocessor: object, examples: Sequence[Example]) -> object:
        found.append(len(examples))
        return tokens(self, preprocessor, examples)

    monkeypatch.setattr(TextTask, "tokens", counted)
    return found


def test_a_split_is_tokenized_once_for_each_tokenizer_and_length(
    tiny_bert: TorchModel, calls: list[int]
):
    dataset = split(TEXTS)
    for length in (None, 8, None, 8):
        encoded(replace(tiny_bert.task, max_length=length), tiny_bert.preprocessor, dataset)
    assert calls == [5, 5]


def test_tokens_of_a_large_split_are_found_again_by_its_rows(
    tiny_bert: TorchModel, calls: list[int]
):
    for _ in range(2):
        encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS))
    encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS[::-1]))
    assert calls == [5, 5]


@pytest.mark.parametrize("damage", ["ids", "about.json", "ends"])
def test_damaged_tokens_are_made_again_and_told(
    tiny_bert: TorchModel,
    calls: list[int],
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
):
    encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS))
    [folder] = cache.iterdir()
    content = (folder / damage).read_bytes()
    (folder / damage).write_bytes(content[:-1] + b"?")
    with caplog.at_level(logging.INFO):
        read = encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS))
    assert (folder / damage).read_bytes() == content
    assert "damaged" in caplog.text
    assert calls == [5, 5]
    assert read.batch([2])["input_ids"].shape == (1, 3)


def test_tokens_of_a_faster_process_stay_where_they_are(
    tiny_bert: TorchModel, monkeypatch: pytest.MonkeyPatch, cache: Path
):
    tokens = TextTask.tokens
    faster: list[int] = []

    def raced(self: TextTask, preprocessor: Any, examples: Sequence[Example]) -> Any:
        if not faster:  # meanwhile another process makes the same ones
            faster.append(0)
            encoded(self, preprocessor, stored(TEXTS))
            [folder] = [item for item in cache.iterdir() if "." not in item.name]
            faster.append(folder.stat().st_ino)
        return tokens(self, preprocessor, examples)

    monkeypatch.setattr(TextTask, "tokens", raced)
    read = encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS))
    [folder] = cache.iterdir()
    assert folder.stat().st_ino == faster[1]
    assert read.batch([2])["input_ids"].shape == (1, 3)


def test_tokens_that_nobody_read_for_a_month_are_removed(tiny_bert: TorchModel, cache: Path):
    encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS))
    [old] = cache.iterdir()
    month = time.time() - 31 * 24 * 60 * 60
    os.utime(old, (month, month))
    encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS[:2]))
    [left] = cache.iterdir()
    assert left != old


def test_a_text_without_a_token_is_named(tiny_bert: TorchModel, monkeypatch: pytest.MonkeyPatch):
    backend = tiny_bert.preprocessor.backend_tokenizer
    given = backend.post_processor
    monkeypatch.setattr(backend, "post_processor", None)
    try:
        with pytest.raises(RecipeError, match=r"the text ' ' gives no token"):
            encoded(tiny_bert.task, tiny_bert.preprocessor, split(["good", " "]))
    finally:
        backend.post_processor = given


def test_a_cache_that_cannot_be_written_is_named(
    tiny_bert: TorchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file"))
    with pytest.raises(EnvironmentMismatch, match="the tokens of a large split cannot be kept"):
        encoded(tiny_bert.task, tiny_bert.preprocessor, stored(TEXTS))
