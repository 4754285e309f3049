"""Which whole layers `prune_structured` takes out; apart from the rest because it needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from compressor.errors import StepFailed
from compressor.models.families.layers import encoder_layers
from compressor.models.structure import keep_layers
from compressor.models.torch_model import TorchModel
from compressor.passes.base import NothingToRemove, PassContext
from compressor.passes.prune_structured.activation import block_influences
from compressor.passes.prune_structured.importance import LabelledInputs, layer_losses
from compressor.training.batches import targets_of
from compressor.training.layer_map import chosen_layers
from compressor.words import counted

if TYPE_CHECKING:
    from compressor.passes.prune_structured.settings import PruneStructured

_ROWS_PER_BATCH = 32


def drop_layers(
    model: TorchModel, settings: PruneStructured, context: PassContext
) -> tuple[int, ...]:
    """Remove whole layers and return the indices of those that stay."""
    depth = len(encoder_layers(model.module))
    kept = tuple(range(depth))
    if settings.drop_layers is not None:
        kept = tuple(index for index in kept if index not in settings.drop_layers)
        if not kept or max(settings.drop_layers) >= depth:
            raise StepFailed(
                f"drop_layers: the model has layers 0 to {depth - 1} and one has to stay, "
                f"got {list(settings.drop_layers)}"
            )
    elif settings.layers is not None:
        if settings.layers >= depth:
            raise NothingToRemove(
                f"layers: the model has {counted(depth, 'layer')}, so fewer have to stay, "
                f"got {settings.layers}"
            )
        if settings.layer_choice == "loss":
            return _drop_by_loss(model, settings.layers, settings, context)
        kept = _layers_that_stay(model, settings.layers, settings, context)
    if len(kept) < depth:
        keep_layers(model.module, kept)
    return kept


def calibration_batches(
    model: TorchModel, settings: PruneStructured, context: PassContext, description: str
) -> Iterator[LabelledInputs]:
    """Yield some rows of the calibration split, chosen by the seed, with their labels if any."""
    dataset = context.calibration
    chosen = np.random.default_rng(context.seed).permutation(len(dataset))
    chosen = chosen[: settings.calibration_rows]
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


def _layers_that_stay(
    model: TorchModel, wanted: int, settings: PruneStructured, context: PassContext
) -> tuple[int, ...]:
    depth = len(encoder_layers(model.module))
    if settings.layer_choice == "last":
        return tuple(range(wanted))
    if settings.layer_choice == "every_other":
        return chosen_layers(wanted, depth)
    batches = calibration_batches(model, settings, context, "measuring layers")
    influences = block_influences(model.module, (inputs for inputs, _ in batches))
    by_layer = ", ".join(f"{value:.3f}" for value in influences.tolist())
    context.note(f"block influence by layer: {by_layer}")
    least_first = influences.argsort(stable=True).tolist()
    return tuple(sorted(least_first[depth - wanted :]))


def _drop_by_loss(
    model: TorchModel, wanted: int, settings: PruneStructured, context: PassContext
) -> tuple[int, ...]:
    kept = list(range(len(encoder_layers(model.module))))
    batches = list(calibration_batches(model, settings, context, "reading calibration rows"))
    with context.progress.bar("measuring layers", len(kept) - wanted) as advance:
        while len(kept) > wanted:
            weakest = int(layer_losses(model.module, batches, model.task).argmin())
            del kept[weakest]
            keep_layers(model.module, [i for i in range(len(kept) + 1) if i != weakest])
            advance()
    return tuple(kept)
