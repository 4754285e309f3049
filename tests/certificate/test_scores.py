"""How many rows of their own would certify what other rows have shown."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compressor.certificate import rows_to_certify
from compressor.measurements import Score
from compressor.tasks import Guess


def agreement(num_changed: int, num_examples: int) -> tuple[Score, Score, Guess]:
    """Return the scores of two models that differ on `num_changed` rows, and of a guess."""
    old = np.arange(num_examples) % 2
    new = np.where(np.arange(num_examples) < num_changed, 1 - old, old)
    scores = [
        Score("agreement", float((old == found).mean()), num_examples, found)
        for found in (old, new, np.zeros_like(old))
    ]
    return scores[0], scores[1], Guess("a model that predicts 0 for everything", scores[2])


def test_rows_that_do_not_suffice_say_how_many_do():
    before, after, guess = agreement(0, 100)
    found = rows_to_certify(before, after, None, guesses=(guess,), max_drop=0.01, seed=0)
    assert found == math.ceil(math.log(0.05) / math.log(0.99))  # 299, exact for no change


def test_rows_that_would_suffice_do_not_count_but_what_it_takes():
    before, after, guess = agreement(0, 400)
    found = rows_to_certify(before, after, None, guesses=(guess,), max_drop=0.01, seed=0)
    assert found == math.ceil(math.log(0.05) / math.log(0.99))  # 299, as above


def test_rows_that_were_certified_by_luck_ask_for_more_than_themselves():
    # With 1 change in 93 rows the bound is 5.0%; of as many others, which change 1.1%, four in
    # ten are not certified: P(at most 1 of 93) = 0.73.
    before, after, guess = agreement(1, 93)
    found = rows_to_certify(before, after, None, guesses=(guess,), max_drop=0.05, seed=0)
    assert found == 124  # the fewest where two changes are allowed


def test_a_guess_that_lies_near_the_budget_asks_for_rows_that_refute_it():
    # Half of the predictions change where a guess has half of them: a budget of 48% is soon proven
    # of a model without a change, but not refuted of the guess.
    before, after, guess = agreement(0, 100)
    found = rows_to_certify(before, after, None, guesses=(guess,), max_drop=0.48, seed=0)
    # 80% power of a one-sided test of 0.5 against 0.48: (1.645 + 0.842)^2 * 0.25 / 0.02^2 = 3,864;
    # the exact bound of 100 rows, from which it is scaled, is a little wider.
    assert 3864 < found < 1.15 * 3864


@pytest.mark.parametrize("num_changed", [2, 50])
def test_a_loss_of_the_whole_budget_is_proven_by_no_number(num_changed: int):
    before, after, guess = agreement(num_changed, 100)
    settings = {"guesses": (guess,), "max_drop": 0.02, "seed": 0}
    assert rows_to_certify(before, after, None, **settings) is None
