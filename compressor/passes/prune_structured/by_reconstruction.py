"""Method `reconstruction` of `prune_structured`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.models.families.layers import encoder_layers, require_prunable_heads
from compressor.models.torch_model import TorchModel
from compressor.passes.base import PassContext
from compressor.passes.prune_structured.budget import (
    Cost,
    Freedom,
    check_ratio,
    encoder_cost,
    units_to_remove,
)
from compressor.passes.prune_structured.compensated_scores import compensated_scores
from compressor.passes.prune_structured.few_rows import RowsRead, each_batch, read_rows
from compressor.passes.prune_structured.fisher import fisher_scores
from compressor.passes.prune_structured.importance import UnitScores
from compressor.passes.prune_structured.latency_cost import TableCost
from compressor.passes.prune_structured.latency_table import (
    MeasuredTable,
    Situation,
    given_table,
    latency_of_sub_layers,
)
from compressor.passes.prune_structured.read_tokens import reads_one_token
from compressor.passes.prune_structured.reconstruct import (
    CalibrationInputs,
    most_unknowns,
    reconstruct,
)
from compressor.passes.prune_structured.sub_layer_graphs import sub_layer_kind
from compressor.passes.prune_structured.unit_removal import Removed, prune_heads, prune_neurons

if TYPE_CHECKING:
    from compressor.passes.prune_structured.settings import PruneByReconstruction

_NAMES = {"flops": "FLOPs", "parameters": "parameters", "latency": "latency"}

CostMeter = Callable[[Any], Cost]  # what a module costs as it is


@dataclass(frozen=True)
class Reconstruction:
    """What pruning has to reach, and the model before it, which teaches every sub-layer."""

    settings: PruneByReconstruction
    teacher: TorchModel
    rows: RowsRead
    cost_of: CostMeter
    freedom: Freedom
    cost_before: float

    @classmethod
    def prepare(
        cls, model: TorchModel, settings: PruneByReconstruction, context: PassContext
    ) -> Reconstruction:
        """Encode the calibration rows; raise `StepFailed` when model, ratio or rows do not do."""
        rows = _read_rows(model, settings, context)
        cost_of = _cost_meter(model.module, settings, rows.inputs, context)
        cost = cost_of(model.module)
        freedom = _freedom(settings, model.device.type)
        check_ratio(cost, settings.ratio, freedom)
        rows.tell(context)
        return cls(settings, model.clone(), rows, cost_of, freedom, cost.total)

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go: always."""
        return True

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> Removed:
        """Remove units until the fraction `progress` of the ratio is gone, and fit the others."""
        settings, calibration, module = self.settings, self.rows.inputs, model.module
        scores = self._score(module, context)
        budget = (1 - progress * settings.ratio) * self.cost_before
        heads, neurons = units_to_remove(scores, self.cost_of(module), budget, self.freedom)
        prune_heads(module, heads)
        prune_neurons(module, neurons)
        layers = len(encoder_layers(module))
        with context.progress.bar("fitting sub-layers", 2 * layers * len(calibration)) as advance:
            choices = reconstruct(
                module,
                self.teacher.module,
                calibration,
                ridge=settings.ridge,
                advance=advance,
                leaves_out=self.rows.are_few,
            )
        left = self.cost_of(module).total / self.cost_before
        context.note(
            f"encoder {_NAMES[settings.target]} left: {100 * left:.1f}%; {self.rows.summary}"
        )
        if progress == 1:
            self.rows.record(settings.ridge, choices, context)
        return Removed(heads, neurons)

    def _score(self, module: Any, context: PassContext) -> UnitScores:
        """Score heads and neurons, by Fisher information where rows are few.

        On few rows most units seem free to go, as others make up for them there by chance.
        """
        calibration, task = self.rows.inputs, self.teacher.task
        with context.progress.bar("measuring heads and neurons", len(calibration)) as advance:
            batches = each_batch(calibration, advance)
            if self.rows.are_few:
                return fisher_scores(module, batches, task, seed=context.seed)
            return compensated_scores(module, batches, task, seed=context.seed)


def check_reconstruction(
    model: TorchModel, settings: PruneByReconstruction, context: PassContext, *, any_layers: bool
) -> None:
    """Raise `StepFailed` for what pruning `model` would raise after losing whole layers.

    With `any_layers` alike, what cannot go from all of them cannot go from some. A latency table is
    not measured for that.
    """
    rows = _read_rows(model, settings, context)
    if any_layers and settings.target != "latency":
        cost = _cost_meter(model.module, settings, rows.inputs, context)(model.module)
        check_ratio(cost, settings.ratio, _freedom(settings, model.device.type))


def _read_rows(
    model: TorchModel, settings: PruneByReconstruction, context: PassContext
) -> RowsRead:
    """Encode the calibration rows; raise `StepFailed` when the model does not do."""
    if settings.head_ratio != 0:
        require_prunable_heads(model.module)
    unknowns, _ = most_unknowns(model.module)
    return read_rows(model, context, settings.calibration_rows, unknowns=unknowns)


def _cost_meter(
    module: Any,
    settings: PruneByReconstruction,
    calibration: CalibrationInputs,
    context: PassContext,
) -> CostMeter:
    """Return what computes the cost of a pruned form of `module`; a latency table is read here."""
    target = settings.target
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
    measured: MeasuredTable,
    situation: Situation,
    settings: PruneByReconstruction,
    context: PassContext,
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


def _freedom(settings: PruneByReconstruction, device: str) -> Freedom:
    return Freedom(
        settings.blocks_on(device),
        heads=settings.head_ratio != 0,
        neurons=settings.neuron_ratio != 0,
        uniform=settings.uniform,
    )
