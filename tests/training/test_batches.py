import dataclasses

import numpy as np
import torch

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.batches import LengthGroupedBatches, WholeGroups, training_loader

LENGTHS = [(index * 37) % 101 for index in range(1000)]


def padding(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in batch) - lengths[j] for batch in batches for j in batch)


def test_every_row_comes_once_an_epoch():
    batches = list(LengthGroupedBatches(LENGTHS, batch_size=7, seed=0))

    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert len(batches) == len(LengthGroupedBatches(LENGTHS, batch_size=7, seed=0)) == 143
    assert sorted(len(batch) for batch in batches) == [6] + [7] * 142


def test_batches_of_similar_length_need_a_quarter_of_the_padding_or_less():
    in_order = [list(range(start, min(start + 8, 1000))) for start in range(0, 1000, 8)]
    grouped = list(LengthGroupedBatches(LENGTHS, batch_size=8, seed=0))

    assert padding(LENGTHS, grouped) < padding(LENGTHS, in_order) / 4


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    sampler = LengthGroupedBatches(LENGTHS, batch_size=8, seed=0)
    first, second = list(sampler), list(sampler)
    torch.manual_seed(5)
    again = LengthGroupedBatches(LENGTHS, batch_size=8, seed=0)

    assert list(again) == first
    assert list(again) == second
    assert first != second
    assert list(LengthGroupedBatches(LENGTHS, batch_size=8, seed=9)) != first


def test_two_seeds_do_not_share_the_order_of_another_epoch():
    first = LengthGroupedBatches(LENGTHS, batch_size=8, seed=0)
    list(first)

    assert list(first) != list(LengthGroupedBatches(LENGTHS, batch_size=8, seed=1))


def test_images_of_one_size_come_in_random_order():
    batches = list(LengthGroupedBatches([0] * 64, batch_size=8, seed=0))

    assert [row for batch in batches for row in batch] != list(range(64))


def test_a_batch_holds_the_inputs_labels_and_rows_of_the_same_examples(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    loader = training_loader(tiny_bert, text_dataset, batch_size=8, seed=0)

    [batch] = next(iter(loader))

    rows = batch["rows"].tolist()
    examples = [text_dataset.examples[row] for row in rows]
    expected = tiny_bert.preprocessor(examples, padding=True, return_tensors="pt")
    assert torch.equal(batch["inputs"]["input_ids"], expected["input_ids"])
    assert batch["targets"].tolist() == text_dataset.labels[rows].tolist()


def test_unlabelled_rows_have_no_targets(tiny_bert: TorchModel, text_dataset: Dataset):
    unlabelled = dataclasses.replace(text_dataset, labels=None)

    [batch] = next(iter(training_loader(tiny_bert, unlabelled, batch_size=4, seed=0)))

    assert batch["targets"] is None


GROUPS = np.array([index * 7 % 130 for index in range(1000)])  # of 7 or 8 rows


def test_whole_groups_come_together_and_every_row_once_an_epoch():
    sampler = WholeGroups(LENGTHS, 32, 0, GROUPS)
    batches = list(sampler)

    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert len(batches) == len(sampler) == 32
    members = [set(np.flatnonzero(group == GROUPS).tolist()) for group in range(130)]
    parts = [sum(bool(rows & set(batch)) for batch in batches) for rows in members]
    assert max(parts) <= 2
    assert sum(part == 2 for part in parts) <= len(batches)  # only what a batch ends in


def test_whole_groups_go_on_where_they_were_and_in_another_order_each_epoch():
    sampler = WholeGroups(LENGTHS, 32, 5, GROUPS)
    first, second = list(sampler), list(sampler)

    assert first != second
    assert list(WholeGroups(LENGTHS, 32, 5, GROUPS, first_batch=33)) == second[1:]


def test_rows_of_as_many_tokens_are_read_together(tiny_bert: TorchModel, text_dataset: Dataset):
    # Words that the vocabulary lacks are one token each, however long.
    texts = tuple(
        "unknown" * 9 if row % 2 else " ".join(["film"] * (2 + row % 3)) for row in range(48)
    )
    dataset = dataclasses.replace(text_dataset, examples=texts)
    loader = training_loader(tiny_bert, dataset, batch_size=8, seed=0)

    padded = [int((part["inputs"]["attention_mask"] == 0).sum()) for [part] in loader]

    # 24 rows of 3 tokens fill three batches; the others have 4, 5 or 6.
    assert padded.count(0) >= 3
