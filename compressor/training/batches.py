"""Turns a split into shuffled batches of tensors, of similar length so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.tasks import Batch, Example, Task, length_of
from compressor.tasks.outputs import Positions

# Batches are sorted by length inside a pool of this many, and shuffled again.
_BATCHES_PER_POOL = 16


@dataclass(frozen=True)
class TrainingBatch:
    """One batch: the model's inputs by name, and the positions of its examples in the split.

    `targets` is what the task makes of their labels, such as class ids of shape `(batch,)`; None
    for unlabelled data. `rows` has shape `(batch,)`.
    """

    inputs: dict[str, Tensor]
    targets: Tensor | None
    rows: Tensor

    @property
    def mask(self) -> Tensor | None:
        """Return the attention mask, shape `(batch, tokens)`; None when nothing is padded."""
        return self.inputs.get("attention_mask")


class LengthGroupedBatches(Sampler[list[int]]):
    """Positions of a split in batches of similar length, in another order in each epoch.

    The order depends only on the seed and on how many epochs came before. The first epoch begins
    after `first_batch` batches, which may be those of several epochs.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, *, first_batch: int = 0
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch, self.skip = divmod(first_batch, len(self)) if first_batch else (0, 0)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = random.permutation(len(self.lengths)).tolist()
        batches: list[list[int]] = []
        for pool in _chunks(order, self.batch_size * _BATCHES_PER_POOL):
            batches += _chunks(sorted(pool, key=self.lengths.__getitem__), self.batch_size)
        skip, self.skip = self.skip, 0
        for index in random.permutation(len(batches))[skip:]:
            yield batches[index]


def training_loader(
    model: TorchModel, dataset: Dataset, *, batch_size: int, seed: int, first_batch: int = 0
) -> DataLoader[int]:
    """Return a loader of dictionaries with the fields of `TrainingBatch`, encoded on the fly.

    It begins after `first_batch` batches. It never draws from torch's global generator.
    """

    def collate(rows: list[int]) -> dict[str, dict[str, Tensor] | Tensor | None]:
        encoded = model.task.encode(model.preprocessor, [dataset.examples[row] for row in rows])
        return {
            "inputs": {name: torch.from_numpy(value) for name, value in encoded.items()},
            "targets": targets_of(model.task, encoded, dataset, rows),
            "rows": torch.tensor(rows),
        }

    lengths = [length_of(example) for example in dataset.examples]
    return DataLoader(
        range(len(dataset)),  # type: ignore[arg-type]  # a range is a map-style dataset of positions
        batch_sampler=LengthGroupedBatches(lengths, batch_size, seed, first_batch=first_batch),
        collate_fn=collate,
        # An epoch begins with a seed for worker processes; drawn from the global generator, it
        # would change what dropout draws after it.
        generator=torch.Generator(),
    )


def targets_of(task: Task, batch: Batch, dataset: Dataset, rows: Positions) -> Tensor | None:
    """Return what a loss compares outputs for `batch`, those `rows`, with; None without labels."""
    if dataset.labels is None:
        return None
    return torch.from_numpy(task.targets(batch, dataset.labels[np.asarray(rows)]))


def longest(examples: Sequence[Example], count: int) -> list[Example]:
    """Return the `count` longest examples, where differences in how they are encoded show."""
    return sorted(examples, key=length_of, reverse=True)[:count]


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
