"""Texts and pairs become padded batches; benchmark rows are exactly as long as asked."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import processors

from compressor.errors import RecipeError
from compressor.models.torch_model import TorchModel
from compressor.tasks import ClassLogits, Truth, load_task


def test_a_batch_is_padded_to_its_longest_text(tiny_bert: TorchModel):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, ["good", "a very good film"])
    assert batch["input_ids"].shape == (2, 6)
    assert batch["attention_mask"].sum(axis=1).tolist() == [3, 6]
    assert batch["input_ids"].dtype == np.int64


def test_a_pair_gets_two_token_types(tiny_bert: TorchModel):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, [("good", "bad film")])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]


def test_texts_and_pairs_do_not_mix(tiny_bert: TorchModel):
    with pytest.raises(ValueError, match="not both"):
        tiny_bert.task.encode(tiny_bert.preprocessor, ["good", ("good", "bad")])


def test_max_length_cuts_tokens(tiny_bert: TorchModel):
    task = load_task("text-classification", max_length=5)
    batch = task.encode(tiny_bert.preprocessor, ["a very good film and a great story"])
    assert batch["input_ids"].shape == (1, 5)


def test_a_benchmark_batch_has_the_length_asked_for_and_no_padding(tiny_bert: TorchModel):
    batch = tiny_bert.task.benchmark_batch(
        tiny_bert.preprocessor, ["a good film", "bad"], batch_size=3, sequence_length=17
    )
    assert batch["attention_mask"].tolist() == [[1] * 17] * 3


def test_a_benchmark_longer_than_the_model_is_refused(tiny_bert: TorchModel):
    with pytest.raises(RecipeError, match=r"sequence_lengths: 65 tokens .* set 64 or less"):
        tiny_bert.task.benchmark_batch(
            tiny_bert.preprocessor, ["good"], batch_size=1, sequence_length=65
        )


def test_scores_follow_their_definitions(tiny_bert: TorchModel):
    # It predicts 0 0 1 0.
    logits = ClassLogits(np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32))
    truth = Truth(("a", "b", "c", "d"), labels=np.array([0, 0, 1, 1]))
    # Precision and recall by hand: class 0 has F1 2*(2/3)*1/(2/3+1) = 0.8, class 1 has 2/3.
    assert tiny_bert.task.score("accuracy", logits, truth).value == 0.75
    assert tiny_bert.task.score("f1_macro", logits, truth).value == pytest.approx(11 / 15)
    # (tp*tn - fp*fn) / sqrt(...) with tp=1, tn=2, fp=0, fn=1.
    assert tiny_bert.task.score("matthews_correlation", logits, truth).value == pytest.approx(
        2 / np.sqrt(1 * 2 * 2 * 3)
    )


def test_outcomes_are_the_predictions_in_order(tiny_bert: TorchModel):
    logits = ClassLogits(np.array([[1, 0], [0, 1]], dtype=np.float32))
    truth = Truth(("a", "b"), labels=np.array([0, 0]))
    assert tiny_bert.task.score("accuracy", logits, truth).outcomes.tolist() == [0, 1]


def test_a_text_without_a_token_is_refused_alone_and_among_others(tiny_bert: TorchModel):
    tokenizer = tiny_bert.preprocessor
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])  # no [CLS] and [SEP]
    task = tiny_bert.task
    with pytest.raises(RecipeError, match="the text '' gives no token"):
        task.encode(tokenizer, [""])
    with pytest.raises(RecipeError, match="the text '' gives no token"):
        task.encode(tokenizer, ["a film", ""])
