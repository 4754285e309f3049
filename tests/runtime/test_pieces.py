from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from byte_level import SENTENCES, byte_level_tokenizer
from conftest import word_piece_tokenizer
from tokenizers import models, pre_tokenizers, processors

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.runtime.pieces import (
    DocumentBatch,
    before_words,
    count_tokens,
    encode_documents,
    of_documents,
    require_words,
)
from compressor.tasks.examples import Words


def same(batch: DocumentBatch, expected: Any) -> bool:
    return batch.keys() == expected.keys() and all(
        np.array_equal(value, expected[name]) for name, value in batch.items()
    )


@pytest.mark.parametrize("tokenizer", [word_piece_tokenizer(), byte_level_tokenizer()])
@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_are_encoded_as_by_the_tokenizer(tokenizer: Any, side: str):
    tokenizer.padding_side = side
    texts = [*SENTENCES, "good", "the [SEP] film"]
    expected = tokenizer(texts, padding=True, return_tensors="np")
    batch = encode_documents(tokenizer, texts, None)
    tokenizer.padding_side = "right"
    assert same(batch, expected)
    for row, document in zip(batch.rows, batch.documents, strict=True):
        assert np.array_equal(
            batch["input_ids"][row.document, row.column :][: len(document)], document.ids
        )


def test_words_are_encoded_as_by_the_tokenizer():
    tokenizer = word_piece_tokenizer()
    words = [["the", "films", "is", "unlovely", "!"], ["it"]]
    expected = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="np")
    assert same(encode_documents(tokenizer, [Words(tuple(item)) for item in words], None), expected)


def test_texts_and_words_are_encoded_in_one_batch():
    tokenizer = word_piece_tokenizer()
    batch = encode_documents(tokenizer, ["the film", Words(("the", "film")), "it"], None)
    assert np.array_equal(batch["input_ids"][0], batch["input_ids"][1])
    assert [document.is_split for document in batch.documents] == [False, True, False]


def test_pieces_know_their_words_and_characters():
    (document,) = encode_documents(
        word_piece_tokenizer(), [Words(("The", "films", "\u200b", "", "it!"))], None
    ).documents
    assert document.text == "The films \u200b  it!"
    assert document.words.tolist() == [0, 1, 1, 4, 4]
    assert document.first_pieces.tolist() == [0, 1, -1, -1, 3]
    assert [document.text[start:end] for start, end in document.offsets] == [
        "The", "film", "s", "it", "!",
    ]  # fmt: skip


def test_words_of_a_byte_level_tokenizer_are_read_as_inside_a_text():
    plain, prefixed = byte_level_tokenizer(), byte_level_tokenizer(add_prefix_space=True)
    assert [before_words(item) for item in (plain, prefixed, word_piece_tokenizer())] == [
        " ", "", "",
    ]  # fmt: skip
    words = ["Barack", "Obama", "naïve", "🙂", "don't"]
    expected = prefixed([words], is_split_into_words=True, return_tensors="np")
    for tokenizer in (plain, prefixed):
        batch = encode_documents(tokenizer, [Words(tuple(words))], None)
        assert same(batch, expected)
        (document,) = batch.documents
        starts = document.offsets[document.first_pieces, 0].tolist()
        assert starts == [0, 7, 13, 19, 21]
        assert document.offsets[:, 1].max() == len(document.text)
    assert not np.array_equal(
        plain([words], is_split_into_words=True)["input_ids"], expected["input_ids"]
    )


def test_a_tokenizer_that_reads_words_in_another_way_is_refused():
    tokenizer = word_piece_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split("the Paris", "isolated")
    vocabulary = {"[UNK]": 0, "the": 1, "Paris": 2, "the Paris": 3, "[PAD]": 4}
    backend.normalizer = None
    backend.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    with pytest.raises(EnvironmentMismatch, match="here: reads words that are given one by one"):
        require_words(tokenizer, "here")


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(EnvironmentMismatch, match="here: Slow is no fast tokenizer"):
        require_words(Slow(), "here")


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_document_takes_several_rows_and_becomes_one_again(side: str):
    tokenizer = word_piece_tokenizer()
    tokenizer.padding_side = side
    words = tuple(np.random.default_rng(0).choice(["films", "the", "good"], size=40).tolist())
    batch = encode_documents(tokenizer, [Words(("it",)), Words(words), "a film"], 12)
    assert batch["input_ids"].shape[1] == 12
    assert len(batch.rows) > 5
    assert all(batch["input_ids"][:, 0 if side == "right" else -1] == (2 if side == "right" else 3))
    ids = batch["input_ids"].astype(np.float32)[:, :, None]
    for document, found in zip(batch.documents, of_documents(batch, ids), strict=True):
        assert found[:, 0].tolist() == document.ids.tolist()
    whole = encode_documents(tokenizer, [Words(words)], None)
    assert whole.documents[0].ids.tolist() == batch.documents[1].ids.tolist()
    assert count_tokens(tokenizer, [Words(words)]).tolist() == [whole["input_ids"].shape[1]]


def test_windows_are_those_of_the_tokenizer_itself():
    tokenizer = word_piece_tokenizer()
    text = " ".join(["the", "film", "is", "good"] * 5)  # 20 tokens: full windows of 8, step 6
    expected = tokenizer(
        text, truncation=True, max_length=10, stride=2, return_overflowing_tokens=True
    )
    batch = encode_documents(tokenizer, [text], 10)
    assert batch["input_ids"].tolist() == expected["input_ids"]


def test_a_document_without_a_token_is_read_as_special_tokens_alone():
    batch = encode_documents(word_piece_tokenizer(), [Words(("\u200b",)), "it"], 8)
    assert batch["input_ids"].tolist() == [[2, 3, 0], [2, batch["input_ids"][1, 1], 3]]
    found = of_documents(batch, np.zeros((2, 3, 5), dtype=np.float32))
    assert [item.shape for item in found] == [(0, 5), (1, 5)]


def test_a_length_without_room_for_a_token_is_refused():
    with pytest.raises(RecipeError, match="of 2 tokens, 2 are special ones"):
        encode_documents(word_piece_tokenizer(), ["the film"], 2)


def test_a_document_that_gives_nothing_at_all_is_refused():
    tokenizer = word_piece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    with pytest.raises(RecipeError, match="gives no token"):
        encode_documents(tokenizer, ["\u200b"], None)
