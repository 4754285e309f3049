"""Batches of calibration rows with their labels, for passes that measure what a model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from compressor.data.sampling import drawn_by_chance
from compressor.models.torch_model import TorchModel
from compressor.passes.base import PassContext
from compressor.training.batches import targets_of

# The inputs of a model by name, and the targets that the task makes of the examples' labels.
LabelledInputs = tuple[Mapping[str, Tensor], Tensor | None]

_ROWS_PER_BATCH = 32


def calibration_batches(
    model: TorchModel, most_rows: int, context: PassContext, description: str
) -> Iterator[LabelledInputs]:
    """Yield some rows of the calibration split, chosen by the seed, with their labels if any."""
    dataset = context.calibration
    chosen = drawn_by_chance(len(dataset), most_rows, context.seed)
    with context.progress.bar(description, len(chosen)) as advance:
        for start in range(0, len(chosen), _ROWS_PER_BATCH):
            rows = chosen[start : start + _ROWS_PER_BATCH]
            examples = [dataset.examples[row] for row in rows]
            encoded = model.task.encode(model.preprocessor, examples)
            inputs = {
                name: torch.from_numpy(value).to(context.device) for name, value in encoded.items()
            }
            targets = targets_of(model.task, encoded, dataset, rows)
            yield inputs, None if targets is None else targets.to(context.device)
            advance(len(rows))
