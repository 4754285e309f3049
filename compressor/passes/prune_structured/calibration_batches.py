"""Batches of calibration rows with their labels, for passes that measure what a model does.

Where several processes measure together each reads its own batches, whole as one process would read
them, so that what is added up over rows is the same but for the order of a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.data.sampling import drawn_by_chance
from compressor.machine.team import ALONE
from compressor.models.torch_model import TorchModel
from compressor.passes.base import PassContext
from compressor.passes.lent_run import lent_run
from compressor.training.batches import targets_of
from compressor.training.training_run import TrainingRun

# The inputs of a model by name, and the targets that the task makes of the examples' labels.
LabelledInputs = tuple[Mapping[str, Tensor], Tensor | None]

_ROWS_PER_BATCH = 32


def calibration_batches(
    model: TorchModel, most_rows: int, context: PassContext, description: str
) -> Iterator[LabelledInputs]:
    """Yield some rows of the calibration split, chosen by the seed, with their labels if any.

    All of them, in the one process that calls this.
    """
    run = replace(lent_run(context, description), team=ALONE)
    return batches_of(model, context.calibration, most_rows, run)


def batches_of(
    model: TorchModel, dataset: Dataset, most_rows: int, run: TrainingRun
) -> Iterator[LabelledInputs]:
    """Yield the batches of this process, of some rows chosen by the seed of `run`."""
    chosen = drawn_by_chance(len(dataset), most_rows, run.seed)
    starts = range(0, len(chosen), _ROWS_PER_BATCH)[run.team.rank :: run.team.size]
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
