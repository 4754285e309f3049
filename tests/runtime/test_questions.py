from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from byte_level import byte_level_tokenizer
from conftest import word_piece_tokenizer

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.runtime.questions import (
    Question,
    count_question_tokens,
    encode_questions,
    require_null_token,
)

CONTEXT = "The film was lovely, the plot  awful and it is funny. Very very dull movies."


@pytest.fixture(params=["word pieces", "bytes"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return word_piece_tokenizer() if request.param == "word pieces" else byte_level_tokenizer()


def test_a_short_context_is_the_row_that_the_tokenizer_makes(tokenizer: Any):
    batch = encode_questions(tokenizer, [("is it good", CONTEXT)], None)
    plain = tokenizer(["is it good"], [CONTEXT], return_tensors="np")
    assert batch.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(batch[name], value)
    assert count_question_tokens(tokenizer, [("is it good", CONTEXT)]) == [
        plain["input_ids"].shape[1]
    ]


def test_offsets_are_characters_of_the_context(tokenizer: Any):
    [question] = encode_questions(tokenizer, [("is it good", CONTEXT)], None).questions
    start = CONTEXT.index("lovely")
    first, last = question.tokens(start, start + len("lovely"))
    assert question.span(first, last) == (start, start + len("lovely"))
    assert question.span(0, len(question.offsets) - 1) == (0, len(CONTEXT))
    assert question.span(-1, -1) == (0, 0)


@pytest.mark.parametrize("limit", [12, 15, 20])
def test_windows_hold_the_question_and_together_the_whole_context(tokenizer: Any, limit: int):
    examples = [("it", CONTEXT), ("is it good", "a film"), ("is it", CONTEXT)]
    batch = encode_questions(tokenizer, examples, limit)
    assert batch["input_ids"].shape[1] <= limit
    assert [row.question for row in batch.rows] == sorted(row.question for row in batch.rows)
    for number, (question, context) in enumerate(examples):
        whole = tokenizer(question, context)
        own = [at for at, item in enumerate(whole.sequence_ids(0)) if item == 1]
        ids = np.array(whole["input_ids"])[own]
        covered = np.zeros(len(ids), dtype=bool)
        for place, row in enumerate(batch.rows):
            if row.question != number:
                continue
            nothing, *columns = row.columns
            assert batch["input_ids"][place, nothing] == tokenizer.cls_token_id
            window = slice(row.window.start, row.window.end)
            np.testing.assert_array_equal(batch["input_ids"][place, columns], ids[window])
            before = batch["input_ids"][place, : row.column]
            np.testing.assert_array_equal(before, whole["input_ids"][: own[0]])
            covered[window] = True
        assert covered.all()


def test_padding_in_front_puts_the_question_last():
    tokenizer = word_piece_tokenizer()
    tokenizer.padding_side = "left"
    batch = encode_questions(tokenizer, [("is it good", CONTEXT), ("it", "a film")], 16)
    plain = tokenizer("a film", "it")["input_ids"]
    np.testing.assert_array_equal(batch["input_ids"][-1, -len(plain) :], plain)
    row = batch.rows[-1]
    found = batch["input_ids"][-1, row.columns]
    assert found.tolist() == [tokenizer.cls_token_id, *plain[1:3]]


def test_an_empty_context_is_a_row_without_it():
    tokenizer = word_piece_tokenizer()
    batch = encode_questions(tokenizer, [("is it good", "")], 16)
    [row] = batch.rows
    assert row.columns == [0]


def test_a_question_that_leaves_no_room_is_refused(tokenizer: Any):
    with pytest.raises(RecipeError, match="none is left for its context; shorten it"):
        encode_questions(tokenizer, [("is it good " * 6, CONTEXT)], 12)


def test_what_is_no_pair_is_refused(tokenizer: Any):
    with pytest.raises(ValueError, match="give pairs of both"):
        encode_questions(tokenizer, ["is it good"], 12)
    with pytest.raises(ValueError, match="at least one question"):
        encode_questions(tokenizer, [], 12)


def test_a_tokenizer_without_a_token_for_no_answer_is_refused():
    tokenizer = word_piece_tokenizer()
    require_null_token(tokenizer, "here")
    tokenizer.cls_token = None
    with pytest.raises(EnvironmentMismatch, match="here: puts no cls_token into a question"):
        require_null_token(tokenizer, "here")


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(EnvironmentMismatch, match="Slow is no fast tokenizer"):
        require_null_token(Slow(), "here")


def test_spaces_around_a_span_are_left_out():
    # As tokenizers give offsets that take the space before a word for a part of it.
    question = Question("q", "in Paris now", np.array([[0, 2], [2, 8], [8, 12]]))
    assert question.span(1, 1) == (3, 8)
    assert question.span(0, 1) == (0, 8)
    assert question.tokens(3, 8) == (1, 1)
