"""Batches of calibration rows with their labels, for passes that measure what a model does.

Where several processes measure together each reads its own batches, whole as one process would read
them, so that what is added up over rows is the same but for the order of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.data.sampling import drawn_by_chance
from compressor.errors import StepFailed
from compressor.machine.team import Team
from compressor.models.torch_model import TorchModel
from compressor.tasks import Task
from compressor.training.batches import targets_of
from compressor.training.training_run import TrainingRun

# The inputs of a model by name, and the targets that the task makes of the examples' labels.
LabelledInputs = tuple[Mapping[str, Tensor], Tensor | None]
T = TypeVar("T")

_ROWS_PER_BATCH = 32


def batches_of(
    model: TorchModel, dataset: Dataset, most_rows: int, run: TrainingRun, *, of_all: bool = False
) -> Iterator[LabelledInputs]:
    """Yield the batches of this process, or `of_all`, of some rows chosen by the seed of `run`."""
    chosen = drawn_by_chance(len(dataset), most_rows, run.seed)
    starts = range(0, len(chosen), _ROWS_PER_BATCH)
    if not of_all:
        starts = starts[run.team.rank :: run.team.size]
    own = [chosen[start : start + _ROWS_PER_BATCH] for start in starts]
    with run.progress.bar(run.description, sum(map(len, own))) as advance:
        for rows in own:
            examples = [dataset.examples[row] for row in rows]
            encoded = model.task.encode(model.preprocessor, examples)
            inputs = {
                name: torch.from_numpy(value).to(run.device) for name, value in encoded.items()
            }
            targets = targets_of(model.task, encoded, dataset, rows)
            yield inputs, None if targets is None else targets.to(run.device)
            advance(len(rows))


def shared_out(
    batches: Iterable[T], team: Team, pass_over: Callable[[T], object] = lambda _: None
) -> Iterator[T]:
    """Yield the batches of this process, of all; what is drawn for others `pass_over` draws too."""
    for number, batch in enumerate(batches):
        if number % team.size == team.rank:
            yield batch
        else:
            pass_over(batch)


def summed_loss(
    task: Task, outputs: Tensor, inputs: Mapping[str, Tensor], labels: Tensor | None
) -> Tensor:
    """Return the sum over a batch of the task's loss, on labels or on what the model predicts.

    Raises `StepFailed` without labels where the loss towards a model's own outputs has no gradient.
    """
    losses = task.losses
    if labels is None:
        if not losses.own_targets_have_gradient:
            raise StepFailed(
                "importance taylor is the gradient of a loss on labels; without any a model's "
                "outputs are compared with themselves, where that gradient is 0: use importance "
                "activation for single weights, use importance fisher for heads and neurons"
            )
        labels = losses.own_targets(outputs.detach(), inputs.get("attention_mask"))
    return losses.on_labels(outputs, labels).total
