from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.models.predict import predict_rows, rows_at_a_time
from compressor.tasks import Batch


class Doubles:
    """A model that gives twice its inputs, and remembers how many rows it read at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        assert {len(value) for value in batch.values()} == {len(batch["input_ids"])}
        self.sizes.append(len(batch["input_ids"]))
        return np.asarray(2 * batch["input_ids"] * batch["attention_mask"], dtype=np.float32)


def test_many_rows_are_read_a_few_at_a_time():
    ids = np.arange(21).reshape(7, 3)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    model = Doubles()
    assert predict_rows(model, batch, 3).tolist() == (2 * ids).tolist()
    assert model.sizes == [3, 3, 1]


def test_few_rows_are_read_together_as_they_are():
    ids = np.arange(6).reshape(2, 3)
    model = Doubles()
    predict_rows(model, {"input_ids": ids, "attention_mask": ids}, 2)
    assert model.sizes == [2]


def test_of_long_rows_fewer_are_read_together():
    def batch(length: int) -> Batch:
        ids = np.zeros((40, length), np.int64)
        return {"input_ids": ids, "attention_mask": ids}

    assert [rows_at_a_time(batch(length), 32) for length in (8, 128, 129, 512, 8192)] == [
        32,
        32,
        31,
        8,
        1,
    ]
    assert rows_at_a_time({"pixel_values": np.zeros((40, 3, 224, 224), np.float32)}, 32) == 32
