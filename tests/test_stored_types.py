from __future__ import annotations

import json

import numpy as np
import pytest

from compressor.measurements import Certification, PassRecord, Score, Size
from compressor.stored_types import Arrays, read_facts, to_plain

SCORE = Score(
    "accuracy", 1 / 3, 3, np.array([2, 0, 1]), kept={"probabilities": np.eye(3, dtype=np.float32)}
)


def test_a_score_comes_back_with_its_arrays_and_every_bit_of_its_value():
    arrays: Arrays = {}
    plain = json.loads(json.dumps(to_plain(SCORE, arrays)))
    read = read_facts(Score, plain, arrays)
    assert read == SCORE
    assert read.outcomes.tolist() == [2, 0, 1]
    assert read.kept["probabilities"].dtype == np.float32


def test_facts_within_facts_come_back_as_their_own_types():
    arrays: Arrays = {}
    proof = Certification(SCORE, SCORE, 0.0)
    plain = json.loads(json.dumps(to_plain(proof, arrays)))
    assert read_facts(Certification, plain, arrays) == proof
    assert len(arrays) == 4


def test_tuples_mappings_and_absent_values_come_back():
    record = PassRecord("finetune", {"epochs": 1.5}, 0.5, None, None, Size(1, 2, 3), "failed", 0.1)
    plain = json.loads(json.dumps(to_plain(record, {})))
    assert read_facts(PassRecord, plain, {}) == record


@pytest.mark.parametrize("plain", [{}, {"metric": "f1"}, {"other": 1}, [], None])
def test_what_is_not_such_a_fact_is_a_value_error(plain: object):
    with pytest.raises(ValueError, match="for Score"):
        read_facts(Score, plain, {})
