"""A row that gets several predictions is found, whatever makes the model give them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from compressor.models.probes import Probe, RowDependence, read_probes, with_padding_moved
from compressor.tasks import Batch

IDS = {0: [7, 8, 9, 4], 1: [7, 8], 2: [5, 3, 2]}


def probe(*rows: int, other_side: bool = False) -> Probe:
    """Return rows of `IDS`, padded on the right with 0."""
    length = max(len(IDS[row]) for row in rows)
    ids = np.array([IDS[row] + [0] * (length - len(IDS[row])) for row in rows])
    return Probe({"input_ids": ids, "attention_mask": (ids > 0).astype(int)}, rows, other_side)


class MeanOfKept:
    """Gives the mean of the ids that the mask keeps: right in every batch."""

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        kept = batch["attention_mask"]
        sums = (batch["input_ids"] * kept).sum(axis=1, keepdims=True)
        return (sums / kept.sum(axis=1, keepdims=True)).astype(np.float32)


class MeanOfAll:
    """Gives the mean of all ids, padding too."""

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        return batch["input_ids"].mean(axis=1, keepdims=True).astype(np.float32)


class First:
    """Gives the first id, whether it is padding or not."""

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        return batch["input_ids"][:, :1].astype(np.float32)


@dataclass
class Remembering(MeanOfKept):
    """Predicts otherwise once it has read a short text, as BigBird does."""

    lengths: list[int] = field(default_factory=list)

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        self.lengths.append(batch["input_ids"].shape[1])
        outputs = super().predict(batch)
        return outputs * 2 if min(self.lengths) < batch["input_ids"].shape[1] else outputs


def test_a_model_that_reads_the_mask_passes_and_its_outputs_are_kept():
    probes = [probe(0), probe(1), probe(0, 1), probe(0)]
    found = read_probes(MeanOfKept(), probes)
    assert found.probes == tuple(probes)
    assert found.predict(probes[2].inputs).tolist() == [[7.0], [7.5]]


def test_padding_that_is_read_as_text_is_found():
    with pytest.raises(RowDependence, match="in a batch of 2 padded to 4 tokens") as caught:
        read_probes(MeanOfAll(), [probe(0), probe(1), probe(0, 1)])
    assert caught.value.difference == pytest.approx(0.5)  # 3.75 in place of 7.5


def test_what_a_model_remembers_is_found_on_the_longest_text_read_again():
    with pytest.raises(RowDependence, match="the model remembers what it read"):
        read_probes(Remembering(), [probe(0), probe(2), probe(0)])


def test_a_side_that_the_model_tells_apart_is_left_out():
    batch = probe(0, 1)
    moved = with_padding_moved(batch.inputs)
    assert moved is not None
    assert moved["input_ids"].tolist() == [[7, 8, 9, 4], [0, 0, 7, 8]]
    assert moved["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    other = Probe(moved, batch.rows, other_side=True)
    assert read_probes(First(), [batch, other]).probes == (batch,)
    assert read_probes(MeanOfKept(), [batch, other]).probes == (batch, other)


def test_padding_on_the_left_moves_to_the_right_and_none_stays_as_it_is():
    left = {
        "input_ids": np.array([[0, 0, 7], [1, 2, 3]]),
        "attention_mask": np.array([[0, 0, 1], [1, 1, 1]]),
    }
    moved = with_padding_moved(left)
    assert moved is not None
    assert moved["input_ids"].tolist() == [[7, 0, 0], [1, 2, 3]]
    assert with_padding_moved(probe(0).inputs) is None
    assert with_padding_moved({"pixel_values": np.zeros((2, 1, 4, 4))}) is None


def test_outputs_that_are_not_finite_are_left_to_who_compares_them():
    class Broken(MeanOfKept):
        def predict(self, batch: Batch) -> NDArray[np.float32]:
            return super().predict(batch) * np.float32("nan")

    probes = [probe(0), probe(0, 1)]
    assert read_probes(Broken(), probes).probes == tuple(probes)
