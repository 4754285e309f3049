"""Method `reconstruction` of `prune_structured`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.export.latency import (
    MeasuredTable,
    Situation,
    given_table,
    latency_of_sub_layers,
)
from compressor.export.sub_layers import sub_layer_kind
from compressor.models.architectures import encoder_layers, require_prunable_heads
from compressor.models.torch_model import TorchModel
from compressor.passes._base import PassContext
from compressor.pruning.budget_search import (
    Cost,
    Freedom,
    check_ratio,
    encoder_cost,
    units_to_remove,
)
from compressor.pruning.fisher import token_mask
from compressor.pruning.latency import TableCost
from compressor.pruning.layerwise import TensorFiles, run_layer
from compressor.pruning.read_tokens import reads_one_token
from compressor.pruning.reconstruction import CalibrationInputs, check_calibration, reconstruct
from compressor.pruning.structure import Removed, prune_heads, prune_neurons
from compressor.pruning.surgeon import compensated_scores
from compressor.tasks import Example

if TYPE_CHECKING:
    from compressor.passes.prune_structured import PruneStructured

_ROWS_PER_BATCH = 32
_NAMES = {None: "FLOPs", "flops": "FLOPs", "parameters": "parameters", "latency": "latency"}

CostMeter = Callable[[Any], Cost]  # what a module costs as it is


@dataclass(frozen=True)
class Reconstruction:
    """What pruning has to reach, and the model before it, which teaches every sub-layer."""

    settings: PruneStructured
    teacher: TorchModel
    calibration: CalibrationInputs
    cost_of: CostMeter
    freedom: Freedom
    cost_before: float

    @classmethod
    def prepare(
        cls, model: TorchModel, settings: PruneStructured, context: PassContext
    ) -> Reconstruction:
        """Encode the calibration rows; raise `StepFailed` when model, ratio or rows do not do."""
        calibration = _calibration(model, settings, context)
        cost_of = _cost_meter(model.module, settings, calibration, context)
        cost = cost_of(model.module)
        freedom = _freedom(settings, model.device.type)
        assert settings.ratio is not None, "the settings are checked"
        check_ratio(cost, settings.ratio, freedom)
        return cls(settings, model.clone(), calibration, cost_of, freedom, cost.total)

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go: always."""
        return True

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> Removed:
        """Remove units until the fraction `progress` of the ratio is gone, and fit the others."""
        settings, calibration, module = self.settings, self.calibration, model.module
        assert settings.ratio is not None, "the settings are checked"
        with context.progress.bar("measuring heads and neurons", len(calibration)) as advance:
            batches = each_batch(calibration, advance)
            scores = compensated_scores(module, batches, seed=context.seed)
        budget = (1 - progress * settings.ratio) * self.cost_before
        heads, neurons = units_to_remove(scores, self.cost_of(module), budget, self.freedom)
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
        left = self.cost_of(module).total / self.cost_before
        context.note(
            f"encoder {_NAMES[settings.target]} left: {100 * left:.1f}%; least squares on "
            f"{calibration.num_rows} calibration rows without labels, "
            f"{calibration.mean_length:.1f} tokens each on average"
        )
        return Removed(heads, neurons)


def check_reconstruction(
    model: TorchModel, settings: PruneStructured, context: PassContext, *, any_layers: bool
) -> None:
    """Raise `StepFailed` for what pruning `model` would raise after losing whole layers.

    With `any_layers` alike, what cannot go from all of them cannot go from some. A latency table is
    not measured for that.
    """
    calibration = _calibration(model, settings, context)
    if any_layers and settings.target != "latency":
        assert settings.ratio is not None, "the settings are checked"
        cost = _cost_meter(model.module, settings, calibration, context)(model.module)
        check_ratio(cost, settings.ratio, _freedom(settings, model.device.type))


def _calibration(
    model: TorchModel, settings: PruneStructured, context: PassContext
) -> CalibrationInputs:
    """Encode the calibration rows; raise `StepFailed` when they or the model do not do."""
    if settings.head_ratio != 0:
        require_prunable_heads(model.module)
    directory = context.work_dir / "calibration"
    calibration = store_inputs(
        model, context.calibration, settings.rows_to_measure, context.seed, directory
    )
    check_calibration(model.module, calibration)
    return calibration


def store_inputs(
    model: TorchModel, dataset: Dataset, max_rows: int, seed: int, directory: Path
) -> CalibrationInputs:
    """Encode some rows of `dataset`, drawn by the seed, of similar length in each batch.

    The chance of a row grows with its length: sums over tokens are what is measured, and short rows
    tell little of how tokens act in long ones. Batches are in random order, so that the first ones
    stand for all.

    Raises `StepFailed` when there are none.
    """
    random = np.random.default_rng(seed)
    chosen = _drawn_by_length(dataset, random)[:max_rows]
    if len(chosen) == 0:
        raise StepFailed(
            f"{dataset.source}: measuring the model needs calibration rows, got none; give "
            f"data.calibration at least one row"
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
    return CalibrationInputs(
        files,
        num_batches=len(starts),
        num_rows=len(order),
        num_distinct_rows=len(seen),
        num_tokens=num_tokens,
        num_distinct_tokens=num_distinct,
    )


def _drawn_by_length(dataset: Dataset, random: np.random.Generator) -> NDArray[np.int64]:
    """Return all rows in random order, each time drawn in proportion to the lengths of the rest.

    Ref: Efraimidis & Spirakis 2006, Weighted random sampling with a reservoir.
    """
    lengths = np.array([max(1, _length(example)) for example in dataset.examples])
    order: NDArray[np.int64] = (random.exponential(size=len(lengths)) / lengths).argsort()
    return order


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


def each_batch(
    calibration: CalibrationInputs, advance: Callable[[], object]
) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of `calibration`, and call `advance` when one has been used."""
    for batch in range(len(calibration)):
        yield calibration[batch]
        advance()


def _cost_meter(
    module: Any, settings: PruneStructured, calibration: CalibrationInputs, context: PassContext
) -> CostMeter:
    """Return what computes the cost of a pruned form of `module`; a latency table is read here."""
    target = settings.target or "flops"
    if target != "latency":
        return lambda pruned: encoder_cost(pruned, target, calibration.mean_length)
    layers = encoder_layers(module)
    assert settings.latency_precision is not None, "the settings are checked"
    situation = Situation(
        kind=sub_layer_kind(module),
        max_heads=max(layer.num_heads for layer in layers),
        max_neurons=max(layer.num_neurons for layer in layers),
        round_to=settings.blocks_on("cpu"),
        batch_size=settings.latency_batch_size,
        num_tokens=max(1, round(calibration.mean_length)),
        precision=settings.latency_precision,
        threads=settings.latency_threads,
        one_token_last=reads_one_token(module, calibration[0]),
    )
    if settings.latency_table is not None:
        measured = given_table(settings.latency_table, situation)
    else:
        measured = latency_of_sub_layers(situation, context.progress)
    _tell(measured, situation, settings, context)
    tables = (*(measured.others.table for _ in layers[1:]), measured.last.table)

    def cost_of(pruned: Any) -> Cost:
        left = encoder_layers(pruned)
        heads = tuple(layer.num_heads for layer in left)
        neurons = tuple(layer.num_neurons for layer in left)
        return TableCost(tables, heads, neurons)

    return cost_of


def _tell(
    measured: MeasuredTable, situation: Situation, settings: PruneStructured, context: PassContext
) -> None:
    if measured.replaced is not None:
        context.note(f"the latency table was measured again: {measured.replaced}")
    source = "from the cache" if measured.is_cached else "measured"
    if settings.latency_table is not None:
        source = f"given by {settings.latency_table.name}"
    clock = "CPU clock" if situation.threads == 1 else "wall clock"
    context.note(
        f"latency table {source}: {situation.precision}, batch {situation.batch_size}, "
        f"{situation.num_tokens} tokens, {situation.threads} "
        f"thread{'s' if situation.threads > 1 else ''} of the CPU, on the {clock}"
        f"{'; one token read of the last layer' if situation.one_token_last else ''}"
    )
    if measured.elsewhere is not None:
        context.note(f"the given latency table was made elsewhere: {measured.elsewhere}")
    context.record("latency_table", measured.content)


def _freedom(settings: PruneStructured, device: str) -> Freedom:
    return Freedom(
        settings.blocks_on(device),
        heads=settings.head_ratio != 0,
        neurons=settings.neuron_ratio != 0,
        uniform=settings.uniform,
    )


def _length(example: Example) -> int:
    # Characters stand in for tokens: close enough for batches with little padding.
    if isinstance(example, str):
        return len(example)
    return sum(map(len, example)) if isinstance(example, tuple) else 0
