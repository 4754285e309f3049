"""Method `reconstruction` of `prune_structured`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.models.architectures import encoder_layers, require_prunable_heads
from compressor.models.torch_model import TorchModel
from compressor.passes._base import PassContext
from compressor.pruning.budget_search import Freedom, check_ratio, encoder_cost, units_to_remove
from compressor.pruning.fisher import token_mask
from compressor.pruning.layerwise import TensorFiles, run_layer
from compressor.pruning.reconstruction import CalibrationInputs, check_calibration, reconstruct
from compressor.pruning.structure import prune_heads, prune_neurons
from compressor.pruning.surgeon import compensated_scores
from compressor.tasks import Example

if TYPE_CHECKING:
    from compressor.passes.prune_structured import PruneStructured

_ROWS_PER_BATCH = 32


@dataclass(frozen=True)
class Reconstruction:
    """What pruning has to reach, and the model before it, which teaches every sub-layer."""

    settings: PruneStructured
    teacher: TorchModel
    calibration: CalibrationInputs
    cost_before: float

    @classmethod
    def prepare(
        cls, model: TorchModel, settings: PruneStructured, context: PassContext
    ) -> Reconstruction:
        """Encode the calibration rows; raise `ValueError` when model, ratio or rows do not do."""
        if settings.head_ratio != 0:
            require_prunable_heads(model.module)
        directory = context.work_dir / "calibration"
        calibration = store_inputs(
            model, context.calibration, settings.rows_to_measure, context.seed, directory
        )
        check_calibration(model.module, calibration)
        cost = encoder_cost(model.module, settings.target or "flops", calibration.mean_length)
        assert settings.ratio is not None, "the settings are checked"
        check_ratio(cost, settings.ratio, _freedom(settings))
        return cls(settings, model.clone(), calibration, cost.total)

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go: always."""
        return True

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> None:
        """Remove units until the fraction `progress` of the ratio is gone, and fit the others."""
        settings, calibration, module = self.settings, self.calibration, model.module
        assert settings.ratio is not None, "the settings are checked"
        target = settings.target or "flops"
        with context.progress.bar("measuring heads and neurons", len(calibration)) as advance:
            batches = _each(calibration, advance)
            scores = compensated_scores(module, batches, seed=context.seed)
        cost = encoder_cost(module, target, calibration.mean_length)
        budget = (1 - progress * settings.ratio) * self.cost_before
        heads, neurons = units_to_remove(scores, cost, budget, _freedom(settings))
        prune_heads(module, heads)
        prune_neurons(module, neurons)
        layers = len(encoder_layers(module))
        with context.progress.bar("fitting sub-layers", 2 * layers * len(calibration)) as advance:
            reconstruct(
                module,
                self.teacher.module,
                calibration,
                ridge=settings.ridge,
                advance=advance,
            )
        left = encoder_cost(module, target, calibration.mean_length).total / self.cost_before
        name = "FLOPs" if target == "flops" else "parameters"
        context.note(
            f"encoder {name} left: {100 * left:.1f}%; least squares on {calibration.num_rows} "
            f"calibration rows without labels, {calibration.mean_length:.1f} tokens each on average"
        )


def store_inputs(
    model: TorchModel, dataset: Dataset, max_rows: int, seed: int, directory: Path
) -> CalibrationInputs:
    """Encode some rows of `dataset`, chosen by the seed, of similar length in each batch.

    Batches are in random order, so that the first ones stand for all.

    Raises `ValueError` when there are none.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(dataset))[:max_rows]
    if len(chosen) == 0:
        raise ValueError(
            f"{dataset.source}: method reconstruction needs calibration rows, got none"
        )
    order = sorted(chosen.tolist(), key=lambda row: _length(dataset.examples[row]))
    files = TensorFiles(directory, model.device)
    seen: set[bytes] = set()
    num_tokens = num_distinct = 0
    starts = random.permutation(range(0, len(order), _ROWS_PER_BATCH))
    for batch, start in enumerate(starts):
        examples = [dataset.examples[row] for row in order[start : start + _ROWS_PER_BATCH]]
        encoded = model.task.encode(model.preprocessor, examples)
        inputs = {name: torch.from_numpy(value).to(model.device) for name, value in encoded.items()}
        files.put("inputs", batch, inputs)
        for content, length in _rows(model, inputs):
            num_tokens += length
            num_distinct += 0 if content in seen else length
            seen.add(content)
    return CalibrationInputs(files, len(starts), len(order), num_tokens, num_distinct)


def _rows(model: TorchModel, inputs: Mapping[str, Tensor]) -> Iterator[tuple[bytes, int]]:
    """Yield what tells a row from others, and its number of tokens without padding."""
    if "attention_mask" in inputs:
        ids = inputs["input_ids"].cpu()
        mask = token_mask(inputs, *ids.shape).cpu()
        for row, kept in zip(ids, mask, strict=True):
            yield sha256(row[kept].numpy().tobytes()).digest(), int(kept.sum())
    else:
        first = {name: value[:1] for name, value in inputs.items()}
        trace = run_layer(model.module, 0, first, None, attention_only=True)
        for row in inputs[model.module.main_input_name].cpu():
            yield sha256(row.numpy().tobytes()).digest(), trace.attention.output.shape[1]


def _each(
    calibration: CalibrationInputs, advance: Callable[[], object]
) -> Iterator[dict[str, Tensor]]:
    for batch in range(len(calibration)):
        yield calibration[batch]
        advance()


def _freedom(settings: PruneStructured) -> Freedom:
    return Freedom(
        settings.blocks_of,
        heads=settings.head_ratio != 0,
        neurons=settings.neuron_ratio != 0,
        uniform=settings.uniform,
    )


def _length(example: Example) -> int:
    # Characters stand in for tokens: close enough for batches with little padding.
    if isinstance(example, str):
        return len(example)
    return sum(map(len, example)) if isinstance(example, tuple) else 0
