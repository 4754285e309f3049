"""Turns a split into shuffled batches of tensors, of similar length so that little is padding."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from compressor.data import Dataset
from compressor.data.tokens import encoded
from compressor.machine.team import ALONE, Team
from compressor.models.torch_model import TorchModel
from compressor.tasks import Batch, Example, Task, length_of
from compressor.tasks.losses import SummedLoss
from compressor.tasks.outputs import Positions

Lengths = NDArray[np.integer[Any]]
# Batches are sorted by length inside a pool of this many, and shuffled again.
_BATCHES_PER_POOL = 16


@dataclass(frozen=True)
class TrainingBatch:
    """One batch: the model's inputs by name, and the positions of its examples in the split.

    `targets` is what the task makes of their labels, such as class ids of shape `(batch,)`; None
    for unlabelled data. `rows` has shape `(batch,)`. Where it is one part of an optimizer step,
    `row_share`, `token_share` and `label_share` are its fractions of what the model reads and of
    the labels: means over parts times these add up to the mean over all.

    Where several processes train, `team`, each holds some rows of the batch; one without any holds
    one that does not count, because all of them have to compute something.
    """

    inputs: dict[str, Tensor]
    targets: Tensor | None
    rows: Tensor
    row_share: float = 1.0
    token_share: float = 1.0
    label_share: float = 1.0
    counts: bool = True
    team: Team = ALONE

    def mean(self, loss: SummedLoss) -> Tensor:
        """Return what these rows add to the mean of `loss` over the batch of all processes."""
        if self.team.is_alone:
            return loss.mean
        own = float(self.counts)
        return own * loss.over(self.team.total(own * loss.count.to(loss.total)))

    def part_of_mean(self, loss: SummedLoss) -> Tensor:
        """Return what these rows add to the mean of `loss` over all parts of the step.

        What is not counted in rows or tokens, as the size of a teacher's states, is taken for as
        large in each part.
        """
        return self.mean(loss) * (self.token_share if loss.of_tokens else self.row_share)

    def of_all(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, with a gradient towards those of this one.

        `values` has shape `(rows, ...)`. Rows that are shorter than others end with zeros.
        """
        if self.team.is_alone:
            return values
        own = values if self.counts else values[:0]
        others = [part.to(values.device) for part in self.team.gathered(own)]
        others[self.team.rank] = own
        if values.dim() > 1:
            longest = max(part.shape[1] for part in others)
            others = [_widened(part, longest) for part in others]
        return torch.cat(others)

    @property
    def place(self) -> slice:
        """Return where the rows of this process stand among those of all."""
        if self.team.is_alone:
            return slice(None)
        own = len(self.rows) if self.counts else 0
        counts = [int(count) for count in self.team.gathered(torch.tensor(own))]
        start = sum(counts[: self.team.rank])
        return slice(start, start + own) if own else slice(0, 1)

    def once(self, loss: Tensor) -> Tensor:
        """Return the part of this process in a loss that every one computed for all rows.

        Its gradient is that towards the rows of this process, so they too add up to the whole.
        """
        size = self.team.size
        return loss if size == 1 else loss - loss.detach() * (1 - 1 / size)

    @property
    def mask(self) -> Tensor | None:
        """Return the attention mask, shape `(batch, tokens)`; None when nothing is padded."""
        return self.inputs.get("attention_mask")


def _widened(values: Tensor, length: int) -> Tensor:
    missing = length - values.shape[1]
    return torch.nn.functional.pad(values, [0, 0] * (values.dim() - 2) + [0, missing])


class LengthGroupedBatches(Sampler[list[int]]):
    """Positions of a split in batches of similar length, in another order in each epoch.

    The order depends only on the seed and on how many epochs came before. The first epoch begins
    after `first_batch` batches, which may be those of several epochs.
    """

    def __init__(
        self, lengths: Sequence[int] | Lengths, batch_size: int, seed: int, *, first_batch: int = 0
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch, self.skip = divmod(first_batch, len(self)) if first_batch else (0, 0)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = self.order(random)
        skip, self.skip = self.skip, 0
        for index in random.permutation(len(self))[skip:]:
            start = int(index) * self.batch_size
            yield order[start : start + self.batch_size].tolist()

    def order(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Return all positions in the order of one epoch's batches, before these are shuffled."""
        order = random.permutation(len(self.lengths))
        size = self.batch_size * _BATCHES_PER_POOL
        for start in range(0, len(order), size):
            pool = order[start : start + size]
            order[start : start + size] = pool[np.argsort(self.lengths[pool], kind="stable")]
        return order


class WholeGroups(LengthGroupedBatches):
    """Positions in batches whose rows of one group lie together, groups of similar length.

    Where a batch is full the rest of a group is in the next one. `groups` numbers what each
    position belongs to.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Lengths,
        batch_size: int,
        seed: int,
        groups: NDArray[np.int64],
        *,
        first_batch: int = 0,
    ) -> None:
        super().__init__(lengths, batch_size, seed, first_batch=first_batch)
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        self.members = np.split(order, starts[1:])
        self.longest_of = np.array([self.lengths[rows].max() for rows in self.members])

    def order(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Return all positions in the order of one epoch's batches, before these are shuffled."""
        longest_of = self.longest_of
        per_pool = max(
            1, self.batch_size * _BATCHES_PER_POOL * len(longest_of) // len(self.lengths)
        )
        order = random.permutation(len(self.members))
        for start in range(0, len(order), per_pool):
            pool = order[start : start + per_pool]
            order[start : start + per_pool] = pool[np.argsort(longest_of[pool], kind="stable")]
        return np.concatenate([self.members[group] for group in order])


Fields = dict[str, Any]  # of a `TrainingBatch`; the Trainer moves what lies in plain dictionaries


def training_loader(
    model: TorchModel,
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    parts: int = 1,
    count: Callable[[Tensor], Tensor] | None = None,
    first_batch: int = 0,
    whole_groups: bool = False,
    team: Team = ALONE,
) -> DataLoader[int]:
    """Return a loader of lists of dictionaries with the fields of `TrainingBatch`.

    A list is one optimizer step in so many parts, fewer where it has fewer examples. `count` says
    how much labels count for a part's share, by default one each. They are encoded on the fly, or
    tokens that were kept are read. It begins after `first_batch` steps. With `whole_groups` rows of
    a group are in one step, as far as it holds them. It never draws from torch's global generator.
    Each process of a `team` gets its rows of each part, and all have to take the same steps.
    """

    def encode(rows: list[int]) -> Fields:
        batch = read.batch_to_train(rows, (seed, batches.epoch))
        return {
            "inputs": {name: torch.from_numpy(value) for name, value in batch.items()},
            "targets": targets_of(model.task, batch, dataset, rows),
            "rows": torch.tensor(rows),
        }

    def encode_own(rows: list[int]) -> Fields:
        if team.is_alone:
            return encode(rows)
        mine = list(team.own_part(rows))
        # Where padding counts, as in sounds without a mask, it is as long as in the whole batch.
        pads = not model.task.reads_tokens and len({lengths[row] for row in rows}) > 1
        longest = [max(rows, key=lengths.__getitem__)] if pads else []
        found = encode([*(mine or rows[:1]), *longest])
        # Not where nothing was added: a long text may be several rows of the inputs.
        own = _without_last(found) if pads else found
        return {**own, "counts": bool(mine)}

    def collate(rows: list[int]) -> list[Fields]:
        if parts == 1:
            return [encode_own(rows)]
        cuts = np.array_split(rows, min(parts, len(rows)))
        shares = count or model.task.losses.count
        return _with_shares([encode_own(part.tolist()) for part in cuts], shares, team)

    read = encoded(model.task, model.preprocessor, dataset)
    lengths = read.lengths
    batches = LengthGroupedBatches(lengths, batch_size, seed, first_batch=first_batch)
    if whole_groups:
        assert dataset.groups is not None, "the caller looked"
        own = (lengths, batch_size, seed, dataset.groups)
        batches = WholeGroups(*own, first_batch=first_batch)
    return DataLoader(
        range(len(dataset)),  # type: ignore[arg-type]  # a range is a map-style dataset of positions
        batch_sampler=batches,
        collate_fn=collate,
        # An epoch begins with a seed for worker processes; drawn from the global generator, it
        # would change what dropout draws after it.
        generator=torch.Generator(),
    )


def _without_last(fields: Fields) -> Fields:
    """Return the fields without their last row."""
    kept = len(fields["rows"]) - 1
    targets = fields["targets"]
    return {
        "inputs": {name: value[:kept] for name, value in fields["inputs"].items()},
        "targets": None if targets is None else targets[:kept],
        "rows": fields["rows"][:kept],
    }


def _with_shares(
    parts: list[Fields], count: Callable[[Tensor], Tensor], team: Team
) -> list[Fields]:
    """Return the parts of a step with their fractions of it, in all processes."""
    sizes = torch.tensor([_sizes(part, count) for part in parts], dtype=torch.float64)
    if not team.is_alone:
        sizes = team.total(sizes * torch.tensor([[part["counts"]] for part in parts]))
    shares = (sizes / sizes.sum(dim=0).where(sizes.sum(dim=0) > 0, 1)).tolist()
    names = ("row_share", "token_share", "label_share")
    return [
        {**part, **dict(zip(names, own, strict=True))}
        for part, own in zip(parts, shares, strict=True)
    ]


def _sizes(part: Fields, count: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """Return how many rows and tokens are read, and how much the labels count."""
    inputs, targets = part["inputs"], part["targets"]
    rows = len(next(iter(inputs.values())))
    mask = inputs.get("attention_mask")
    tokens = rows if mask is None else float(mask.sum())
    return rows, tokens, 0.0 if targets is None else float(count(targets))


def targets_of(task: Task, batch: Batch, dataset: Dataset, rows: Positions) -> Tensor | None:
    """Return what a loss compares outputs for `batch`, those `rows`, with; None without labels."""
    if dataset.labels is None:
        return None
    return torch.from_numpy(task.targets(batch, dataset.labels[np.asarray(rows)]))


def longest(examples: Sequence[Example], count: int) -> list[Example]:
    """Return the `count` longest examples, where differences in how they are encoded show."""
    return heapq.nlargest(count, examples, key=length_of)  # the first of equally long ones


def _chunks(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
