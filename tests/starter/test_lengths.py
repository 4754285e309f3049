from __future__ import annotations

from compressor.models.torch_model import TorchModel
from compressor.starter.lengths import Lengths, measure_lengths


def test_lengths_are_rounded_up_to_a_multiple_of_eight(tiny_bert: TorchModel):
    texts = ["good"] * 90 + ["the film was " * 4 + "good"] * 10  # 3 and 15 tokens
    assert measure_lengths(tiny_bert.task, tiny_bert.preprocessor, texts) == Lengths(
        8, 16, 15, 16, 64
    )


def test_a_pair_counts_both_of_its_texts(tiny_bert: TorchModel):
    pairs = [("the film was good", "it is bad")] * 3  # 4 + 3 words, three special tokens
    assert measure_lengths(tiny_bert.task, tiny_bert.preprocessor, pairs).longest == 10


def test_a_limit_of_the_tokenizer_holds(tiny_bert: TorchModel):
    lengths = measure_lengths(tiny_bert.task, tiny_bert.preprocessor, ["the film " * 100])
    assert (lengths.longest, lengths.covered, lengths.limit) == (202, 64, 64)
