from __future__ import annotations

import numpy as np
import pytest

from compressor.models.torch_model import TorchModel
from compressor.starter.decide import (
    Lengths,
    certified_by,
    measure_lengths,
    rows_to_certify,
    smallest_budget,
)


def test_lengths_are_rounded_up_to_a_multiple_of_eight(tiny_bert: TorchModel):
    texts = ["good"] * 90 + ["the film was " * 4 + "good"] * 10  # 3 and 15 tokens
    # Of the 100 rows two are no copies.
    assert measure_lengths(tiny_bert.preprocessor, texts) == Lengths(8, 16, 15, 16, 64, 18 / 100)


def test_a_pair_counts_both_of_its_texts(tiny_bert: TorchModel):
    pairs = [("the film was good", "it is bad")] * 3  # 4 + 3 words, three special tokens
    assert measure_lengths(tiny_bert.preprocessor, pairs).longest == 10


def test_a_limit_of_the_tokenizer_holds(tiny_bert: TorchModel):
    lengths = measure_lengths(tiny_bert.preprocessor, ["the film " * 100])
    assert (lengths.longest, lengths.covered, lengths.limit) == (202, 64, 64)


@pytest.mark.parametrize(("rows", "budget"), [(100, 0.01), (101, 0.01), (99, 0.0102), (3, 0.3334)])
def test_a_budget_is_never_finer_than_one_example(rows: int, budget: float):
    assert smallest_budget(rows) == budget
    assert smallest_budget(rows) >= 1 / rows


def test_the_estimated_number_of_rows_certifies_in_four_of_five_draws():
    # Simulated with the test that the pipeline uses: 2% of the answers change, half for the worse.
    from compressor.certificate import certify_paired

    rows, random = rows_to_certify(0.01), np.random.default_rng(0)
    certified = 0
    for _ in range(200):
        draws = random.random(rows)
        before, after = draws >= 0.01, (draws < 0.01) | (draws >= 0.02)
        found = certify_paired(before, after, max_drop=0.01, confidence=0.95)
        certified += found.verdict == "certified"
    assert 0.7 <= certified / 200 <= 0.9


def test_the_two_estimates_undo_each_other():
    assert certified_by(rows_to_certify(0.02)) == pytest.approx(0.02, rel=0.01)
