"""The work of `prune_structured`: layers go, then heads and neurons step by step, then it recovers.

Both methods are goals with one verb, `prune_to`: `_Ratios` removes the units of lowest score,
`Reconstruction` those that are cheapest to make up for, and fits the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.machine.team import ALONE, team
from compressor.models.families.layers import Encoder, EncoderLayer, find_encoder
from compressor.models.families.prunable import (
    no_reconstruction,
    require_fewer_layers,
    require_prunable_heads,
    why_no_latency,
    why_no_layers_apart,
)
from compressor.models.structure import (
    configure_shape,
    keep_layers,
    require_first_layer,
    with_first_layer,
)
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, NothingToRemove, PassContext
from compressor.passes.lent_run import lent_run
from compressor.passes.prune_structured.activation import activation_scores, block_influences
from compressor.passes.prune_structured.budget import (
    Cost,
    Freedom,
    check_ratio,
    encoder_cost,
    units_to_remove,
)
from compressor.passes.prune_structured.calibration_batches import batches_of
from compressor.passes.prune_structured.compensated_scores import compensated_scores
from compressor.passes.prune_structured.few_rows import RowsRead, each_batch, read_rows
from compressor.passes.prune_structured.fisher import fisher_scores, require_one_length
from compressor.passes.prune_structured.importance import (
    UnitScores,
    layer_losses,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from compressor.passes.prune_structured.information import information_scores
from compressor.passes.prune_structured.latency_table import (
    MeasuredTable,
    Situation,
    TableCost,
    given_table,
    latency_of_sub_layers,
)
from compressor.passes.prune_structured.least_squares import RidgeChoice
from compressor.passes.prune_structured.reconstruct import (
    CalibrationInputs,
    keeping_totals,
    most_unknowns,
    reconstruct,
    totals_can_be_kept,
)
from compressor.passes.prune_structured.settings import PruneByReconstruction, PruneByScores
from compressor.passes.prune_structured.sub_layer_graphs import reads_one_token, sub_layer_kind
from compressor.passes.prune_structured.unit_removal import (
    Scope,
    prune_heads,
    prune_neurons,
    select_units,
)
from compressor.passes.recovery import RecoveryTraining, look_at_recovery
from compressor.progress import SILENT
from compressor.training.layer_map import chosen_layers
from compressor.training.schedules import cubic_sparsity
from compressor.training.together import in_all_processes
from compressor.training.training_run import TrainingRun
from compressor.words import counted

Settings = PruneByScores | PruneByReconstruction
_NAMES = {"flops": "FLOPs", "parameters": "parameters", "latency": "latency"}

CostMeter = Callable[[Sequence[EncoderLayer]], Cost]  # what layers cost as they are


def look_ahead(settings: Settings, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for the parts of every layer, whether as many units can go, and at the recovery.

    A pass before may leave fewer units; of layers that are alike, what cannot go from all of them
    cannot go from some. Layers that differ may be the ones that a pass before removes.
    """
    layers = _encoder_to_prune(model, settings).layers
    calibration = ahead.splits.get("calibration")
    if calibration is not None and _measures_at_frames(settings):
        require_one_length(model, calibration.examples)
    left = settings.layers or len(layers) - len(settings.drop_layers or ())
    if why_no_layers_apart(model.module.config) is not None:
        left = len(layers)  # what goes is that they are run as often
    if settings.uniform and ahead.keeps_structure:
        _require_equal_layers(layers, left)
    is_foreseen = _are_alike(layers) or (ahead.keeps_structure and not settings.changes_layers)
    if isinstance(settings, PruneByScores) and is_foreseen:
        _Ratios.of(layers[:left], settings, model.device.type)
    look_at_recovery(settings.recovery, model, ahead)
    return model


def apply(settings: Settings, model: TorchModel, context: PassContext) -> TorchModel:
    """Prune `model` in place.

    Raises `StepFailed` before anything is trained when the ratios, `layers` or `drop_layers`
    cannot be met by this model; `UnsupportedArchitecture` is one of them. Raises
    `EnvironmentMismatch` when a latency table cannot be stored, or its times vary too much.
    """
    model.move_to(context.device)
    encoder = _encoder_to_prune(model, settings)
    depth = encoder.depth
    if settings.measures_layers:
        _check_early(encoder, settings, model, context)
    training = RecoveryTraining.prepare(settings.recovery, model, context)

    kept = drop_layers(model, encoder, settings, context)
    if len(kept) < depth:
        stay = ", ".join(map(str, kept))
        context.note(f"layers {depth} -> {len(kept)} (those that stay, counted from 0: {stay})")
    layers = encoder.layers
    if settings.uniform:
        _require_equal_layers(layers, len(layers))
    counts = [layer.num_heads for layer in layers], [layer.num_neurons for layer in layers]
    goals: Goals = (
        _Ratios.of(layers, settings, context.device.type)
        if isinstance(settings, PruneByScores)
        else Reconstruction.prepare(model, encoder, settings, context)
    )
    # Each layer learns from the one it was in the teacher, whatever was removed around it.
    layer_map = tuple(enumerate(kept)) if training and training.teaches(depth) else None
    part = None if training is None else training.in_parts(settings.steps)
    for step in range(1, settings.steps + 1):
        if goals.removes_units:
            goals.prune_to(_progress(settings, step), model, encoder, context)
        if step == settings.steps:
            _note_what_is_left(counts, encoder, settings, context)
        if part is not None:
            part.train(
                model,
                context,
                name=f"recovery-{step}",
                place=f" after step {step} of {settings.steps}" if settings.steps > 1 else "",
                # The seed decides which rows come first; a part may end before the others are read.
                seed=context.seed + step - 1,
                layer_map=layer_map,
            )
    return model


def _encoder_to_prune(model: TorchModel, settings: Settings) -> Encoder:
    """Return the encoder; raise `UnsupportedArchitecture` when its units have to stay."""
    encoder = find_encoder(model.module)
    if settings.takes_heads:
        require_prunable_heads(model.module.config)
    if settings.changes_layers:
        require_fewer_layers(encoder.config)
    refusal = no_reconstruction(model.module.config)
    if refusal is not None and isinstance(settings, PruneByReconstruction):
        raise StepFailed(f"method: {refusal}")
    return encoder


def _measures_at_frames(settings: Settings) -> bool:
    """Return whether it has to be known which states of a batch are padding."""
    if isinstance(settings, PruneByReconstruction):
        return True
    return settings.importance in ("fisher", "activation", "entropy", "mutual_information")


def _progress(settings: Settings, step: int) -> float:
    """Return the fraction of the ratios that is gone after a step, counted from 1."""
    if settings.step_schedule == "linear":
        return step / settings.steps
    return cubic_sparsity(step, begin=0, end=settings.steps, initial=0.0, final=1.0)


def _are_alike(layers: Sequence[EncoderLayer]) -> bool:
    return _most_alike(layers) == len(layers)


def _most_alike(layers: Sequence[EncoderLayer]) -> int:
    """Return how many layers have the same numbers of heads and neurons."""
    return max(Counter((layer.num_heads, layer.num_neurons) for layer in layers).values())


def _require_equal_layers(layers: Sequence[EncoderLayer], left: int) -> None:
    """Raise `StepFailed` unless as many as are `left` of the layers are alike."""
    if _most_alike(layers) < left:
        raise StepFailed(
            f"uniform: the layers of this model differ already (heads "
            f"{[layer.num_heads for layer in layers]}, neurons "
            f"{[layer.num_neurons for layer in layers]}); start from the checkpoint before it was "
            f"pruned, or leave uniform out"
        )


def _check_early(
    encoder: Encoder, settings: Settings, model: TorchModel, context: PassContext
) -> None:
    """Raise `StepFailed` for what cannot be done, where that is known before layers are measured.

    Which layers will stay is not; where all are alike, it does not matter.
    """
    layers = encoder.layers
    if settings.uniform:
        _require_equal_layers(layers, min(settings.layers or len(layers), len(layers)))
    if isinstance(settings, PruneByReconstruction):
        rows = _read_rows(model, encoder, settings, context)
        if _are_alike(layers) and settings.target != "latency":  # a table is not measured for that
            cost_of = _cost_meter(encoder, settings, rows.inputs, context)
            freedom = _freedom(settings, context.device.type)
            check_ratio(cost_of(layers), settings.ratio, freedom)
    elif _are_alike(layers):
        _Ratios.of(layers[: settings.layers], settings, context.device.type)


def _note_what_is_left(
    before: tuple[list[int], list[int]],
    encoder: Encoder,
    settings: Settings,
    context: PassContext,
) -> None:
    """Note which heads and neurons stay of those `before`, and whether the checkpoint is plain."""
    layers = encoder.layers
    heads, neurons = [layer.num_heads for layer in layers], [layer.num_neurons for layer in layers]
    # With method reconstruction a ratio says nothing about either kind.
    by_kind = settings.method == "scores"
    shares = (settings.heads_to_remove, settings.neurons_to_remove) if by_kind else (0.0, 0.0)
    _note_units(context, "attention heads", before[0], heads, shares[0])
    _note_units(context, "FFN neurons", before[1], neurons, shares[1])
    if settings.uniform:
        _configure(encoder, context)


def _note_units(
    context: PassContext, name: str, before: Sequence[int], after: Sequence[int], ratio: float
) -> None:
    if sum(before) != sum(after):
        by_layer = ", ".join(map(str, after))
        context.note(f"{name} {sum(before)} -> {sum(after)} (by layer: {by_layer})")
    elif ratio > 0:
        context.note(f"ratio {ratio:g} rounds to 0 {name.rpartition(' ')[2]}; none removed")


def _configure(encoder: Encoder, context: PassContext) -> None:
    """Make the checkpoint a plain one, or say why it is not."""
    reasons = configure_shape(encoder)
    context.record("plain_checkpoint", not reasons)
    if not reasons:
        context.note("all layers are alike, as config.json says: transformers alone loads this")
        return
    context.note(
        f"all layers are alike, but {'; '.join(reasons)}: the checkpoint keeps structure.json and "
        f"loads with compressor.load_checkpoint, not with transformers alone"
    )


def drop_layers(
    model: TorchModel, encoder: Encoder, settings: Settings, context: PassContext
) -> tuple[int, ...]:
    """Remove whole layers and return the indices of those that stay."""
    depth = encoder.depth
    kept = tuple(range(depth))
    if settings.drop_layers is not None:
        kept = tuple(index for index in kept if index not in settings.drop_layers)
        if not kept or max(settings.drop_layers) >= depth:
            raise StepFailed(
                f"drop_layers: the model has layers 0 to {depth - 1} and one has to stay, "
                f"got {list(settings.drop_layers)}"
            )
        require_first_layer(encoder, kept)
    elif settings.layers is not None:
        if settings.layers >= depth:
            raise NothingToRemove(
                f"layers: the model has {counted(depth, 'layer')}, so fewer have to stay, "
                f"got {settings.layers}"
            )
        if encoder.parts.repeated is not None:
            kept = kept[: settings.layers]
        elif settings.layer_choice == "loss":
            return _drop_by_loss(model, encoder, settings.layers, settings, context)
        else:
            kept = _layers_that_stay(model, encoder, settings.layers, settings, context)
    if len(kept) < depth:
        keep_layers(encoder, kept)
    return kept


def _layers_that_stay(
    model: TorchModel, encoder: Encoder, wanted: int, settings: Settings, context: PassContext
) -> tuple[int, ...]:
    depth = len(encoder.layer_list)
    if settings.layer_choice == "last":
        return tuple(range(wanted))
    if settings.layer_choice == "every_other":
        return with_first_layer(encoder, chosen_layers(wanted, depth))
    run = lent_run(context, "measuring layers")
    rows = context.calibration, settings.calibration_rows
    influences = in_all_processes(run, influences_of_layers, model, *rows, run)
    by_layer = ", ".join(f"{value:.3f}" for value in influences.tolist())
    context.note(f"block influence by layer: {by_layer}")
    if encoder.parts.first_layer_stays is not None:
        influences[0] = torch.inf
    least_first = influences.argsort(stable=True).tolist()
    return tuple(sorted(least_first[depth - wanted :]))


def _drop_by_loss(
    model: TorchModel, encoder: Encoder, wanted: int, settings: Settings, context: PassContext
) -> tuple[int, ...]:
    kept = list(range(len(encoder.layer_list)))
    # The bar is of layers, not of the rows that are read for each of them.
    run = replace(lent_run(context, "measuring layers"), progress=SILENT)
    rows = context.calibration, settings.calibration_rows
    with context.progress.bar("measuring layers", len(kept) - wanted) as advance:
        while len(kept) > wanted:
            losses = in_all_processes(run, losses_without_layers, model, *rows, run)
            if encoder.parts.first_layer_stays is not None:
                losses[0] = torch.inf
            weakest = int(losses.argmin())
            del kept[weakest]
            keep_layers(encoder, [i for i in range(len(kept) + 1) if i != weakest])
            advance()
    return tuple(kept)


def influences_of_layers(
    model: TorchModel, dataset: Dataset, most_rows: int, run: TrainingRun
) -> Tensor:
    """Return how far each layer turns hidden states; each process of `run` measures its rows."""
    batches = batches_of(model, dataset, most_rows, run)
    return block_influences(find_encoder(model.module), (inputs for inputs, _ in batches), run.team)


def losses_without_layers(
    model: TorchModel, dataset: Dataset, most_rows: int, run: TrainingRun
) -> Tensor:
    """Return the loss without each layer, of which each process of `run` measures its rows."""
    batches = list(batches_of(model, dataset, most_rows, run))
    return layer_losses(find_encoder(model.module), batches, model.task, run.team)


class Goals(Protocol):
    """How far a method has to prune."""

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go, and not only layers."""

    def prune_to(
        self, progress: float, model: TorchModel, encoder: Encoder, context: PassContext
    ) -> None:
        """Remove units until the fraction `progress` of the way is gone."""


@dataclass(frozen=True)
class _Ratios:
    """How many heads and neurons each layer had at the start, and which fraction goes."""

    settings: PruneByScores
    round_to: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[EncoderLayer], settings: PruneByScores, device: str) -> _Ratios:
        """Raise `StepFailed` when the ratios cannot be met: too many would go, or none."""
        goals = cls(
            settings,
            settings.blocks_on(device),
            tuple(layer.num_heads for layer in layers),
            tuple(layer.num_neurons for layer in layers),
        )
        goals.check()
        return goals

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go, and not only layers."""
        return self.settings.heads_to_remove > 0 or self.settings.neurons_to_remove > 0

    @property
    def _scope(self) -> Scope:
        return "global" if self.settings.ranks_globally else "layer"

    def check(self) -> None:
        """Raise `StepFailed` unless something goes, and what must stay is left.

        A ratio may be too mild for one kind where the other, or whole layers, go; a note says so.
        """
        settings = self.settings
        spared = [
            self._why_none(unit, counts, ratio, round_to)
            for unit, counts, ratio, round_to in (
                ("head", self.heads, settings.heads_to_remove, 1),
                ("neuron", self.neurons, settings.neurons_to_remove, self.round_to),
            )
            if ratio > 0
        ]
        if spared and all(spared) and not settings.changes_layers:
            raise NothingToRemove(spared[0])

    def _why_none(self, unit: str, counts: Sequence[int], ratio: float, round_to: int) -> str:
        """Return why `ratio` removes no unit, empty when it does; raise when it takes too many."""
        try:
            removed = self._select([torch.zeros(count) for count in counts], ratio, round_to)
        except StepFailed as error:
            raise StepFailed(f"{unit}_ratio: {error}") from error
        if removed:
            return ""
        smaller_blocks = ", a smaller round_to" if round_to > 1 else ""
        return (
            f"{unit}_ratio: {ratio:g} rounds to 0 {unit}s (layers have {list(counts)}, scope is "
            f"'{self._scope}', each layer keeps a multiple of {round_to}); use a larger ratio"
            f"{smaller_blocks}, or {unit}_ratio: 0 to keep all {unit}s"
        )

    def prune_to(
        self, progress: float, model: TorchModel, encoder: Encoder, context: PassContext
    ) -> None:
        """Remove the lowest-scored units until the fraction `progress` of the ratios is reached."""
        settings = self.settings
        scores = _score(model, encoder, settings, context)
        heads = self._select(scores.heads, progress * settings.heads_to_remove, 1, self.heads)
        neurons = self._select(
            scores.neurons,
            progress * settings.neurons_to_remove,
            self.round_to,
            self.neurons,
        )
        if heads:
            prune_heads(encoder, heads)
        if neurons:
            prune_neurons(encoder, neurons)

    def _select(
        self,
        scores: Sequence[Tensor],
        ratio: float,
        round_to: int,
        counts: Sequence[int] | None = None,
    ) -> dict[int, list[int]]:
        if ratio == 0:
            return {}
        return select_units(
            scores,
            ratio,
            scope=self._scope,
            round_to=round_to,
            counts=counts,
            may_empty_layers=self.settings.may_empty_layers,
        )


def _score(
    model: TorchModel, encoder: Encoder, settings: PruneByScores, context: PassContext
) -> UnitScores:
    if settings.importance == "random":
        return random_scores(encoder.layers, context.seed)
    if settings.importance in ("magnitude", "magnitude_l1"):
        return magnitude_scores(encoder.layers, order=1 if settings.importance[-1] == "1" else 2)
    run = lent_run(context, "measuring heads and neurons")
    scores, words = in_all_processes(run, unit_scores, settings, model, context.calibration, run)
    if words is not None:
        context.note(words)
    return scores


def unit_scores(
    settings: PruneByScores, model: TorchModel, dataset: Dataset, run: TrainingRun
) -> tuple[UnitScores, str | None]:
    """Return what ranks units, of which each process of `run` measures its own rows.

    With the second result words for the report, where there are any. Where signs or tokens are
    drawn batch by batch, each process is given all batches, and draws for the others too.
    """
    encoder, most_rows = find_encoder(model.module), settings.calibration_rows
    kind = settings.importance
    if kind in ("taylor", "activation"):
        batches = batches_of(model, dataset, most_rows, run)
        if kind == "taylor":
            return taylor_scores(encoder, batches, model.task, run.team), None
        return activation_scores(encoder, (inputs for inputs, _ in batches), run.team), None
    batches = batches_of(model, dataset, most_rows, run, of_all=True)
    if kind == "entropy" or kind == "mutual_information":
        num_rows = min(most_rows, len(dataset))
        return information_scores(encoder, batches, kind, num_rows, run.seed, run.team)
    unlabelled = (inputs for inputs, _ in batches)
    return fisher_scores(encoder, unlabelled, model.task, seed=run.seed, team=run.team), None


@dataclass(frozen=True)
class Reconstruction:
    """What pruning has to reach, and the model before it, which teaches every sub-layer.

    Without `teacher` what it says of the rows is kept when the units of a model like it are scored.
    """

    settings: PruneByReconstruction
    teacher: TorchModel | None
    rows: RowsRead
    cost_of: CostMeter
    freedom: Freedom
    cost_before: float

    @classmethod
    def prepare(
        cls,
        model: TorchModel,
        encoder: Encoder,
        settings: PruneByReconstruction,
        context: PassContext,
    ) -> Reconstruction:
        """Encode the calibration rows; raise `StepFailed` when model, ratio or rows do not do."""
        rows = _read_rows(model, encoder, settings, context)
        cost_of = _cost_meter(encoder, settings, rows.inputs, context)
        cost = cost_of(encoder.layers)
        freedom = _freedom(settings, context.device.type)
        check_ratio(cost, settings.ratio, freedom)
        rows.tell(context)
        kept = (
            settings.steps == 1  # before the others the model is not its teacher any more
            and not settings.refit_inputs
            and team().is_alone
            and totals_can_be_kept(encoder, rows.inputs)
        )
        teacher = None if kept else model.clone()
        return cls(settings, teacher, rows, cost_of, freedom, cost.total)

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go: always."""
        return True

    def prune_to(
        self, progress: float, model: TorchModel, encoder: Encoder, context: PassContext
    ) -> None:
        """Remove units until the fraction `progress` of the ratio is gone, and fit the others."""
        settings, calibration = self.settings, self.rows.inputs
        few = self.rows.are_few
        run = lent_run(context, "measuring heads and neurons")
        sent = calibration.to_send(run.team)
        measured = few, self.teacher is None
        scores = in_all_processes(run, compared_units, model, sent, *measured, run)
        budget = (1 - progress * settings.ratio) * self.cost_before
        heads, neurons = units_to_remove(scores, self.cost_of(encoder.layers), budget, self.freedom)
        prune_heads(encoder, heads)
        prune_neurons(encoder, neurons)
        run = lent_run(context, "fitting sub-layers")
        if few:  # each row says how well all others foretell it
            run = replace(run, team=ALONE)
        ends = model, self.teacher
        fit = settings.ridge, few, settings.refit_inputs
        choices = in_all_processes(run, fitted_units, *ends, sent, *fit, run)
        left = self.cost_of(encoder.layers).total / self.cost_before
        context.note(
            f"encoder {_NAMES[settings.target]} left: {100 * left:.1f}%; {self.rows.summary}"
        )
        if progress == 1:
            self.rows.record(settings.ridge, choices, context)


def compared_units(
    model: TorchModel, inputs: CalibrationInputs, few: bool, keeps_totals: bool, run: TrainingRun
) -> UnitScores:
    """Score heads and neurons, by Fisher information where rows are few.

    On few rows most units seem free to go, as others make up for them there by chance. Each process
    of `run` measures its own batches. What `fitted_units` needs of a teacher that equals `model`
    is kept where it `keeps_totals`.
    """
    encoder, inputs = find_encoder(model.module), inputs.received(run)
    with run.progress.bar(run.description, len(inputs)) as advance:
        if keeps_totals:
            batches = keeping_totals(encoder, inputs, advance)
        else:
            batches = each_batch(inputs, advance)
        scores = fisher_scores if few else compensated_scores
        return scores(encoder, batches, model.task, seed=run.seed, team=run.team)


def fitted_units(
    model: TorchModel,
    teacher: TorchModel | None,
    inputs: CalibrationInputs,
    ridge: float,
    few: bool,
    refits_inputs: bool,
    run: TrainingRun,
) -> dict[str, RidgeChoice]:
    """Fit the output projections of `model`, in place, in each process of `run` alike."""
    encoder, inputs = find_encoder(model.module), inputs.received(run)
    own = range(run.team.rank, len(inputs), run.team.size)
    with run.progress.bar(run.description, 2 * len(encoder.layers) * len(own)) as advance:
        return reconstruct(
            encoder,
            None if teacher is None else find_encoder(teacher.module),
            inputs,
            ridge=ridge,
            advance=advance,
            leaves_out=few,
            refits_inputs=refits_inputs,
            team=run.team,
        )


def _read_rows(
    model: TorchModel, encoder: Encoder, settings: PruneByReconstruction, context: PassContext
) -> RowsRead:
    """Encode the calibration rows; raise `StepFailed` when there are none."""
    unknowns = most_unknowns(encoder.layers)
    return read_rows(model, encoder, context, settings.calibration_rows, unknowns=unknowns)


def _cost_meter(
    encoder: Encoder,
    settings: PruneByReconstruction,
    calibration: CalibrationInputs,
    context: PassContext,
) -> CostMeter:
    """Return what computes the cost of pruned layers; a latency table is read here."""
    target = settings.target
    if target != "latency":
        return lambda pruned: encoder_cost(pruned, target, calibration.mean_length)
    if (reason := why_no_latency(encoder.module.config)) is not None:
        raise StepFailed(f"target: {reason}")
    layers = encoder.layers
    assert settings.latency_precision is not None, "the settings are checked"
    situation = Situation(
        kind=sub_layer_kind(encoder),
        max_heads=max(layer.num_heads for layer in layers),
        max_neurons=max(layer.num_neurons for layer in layers),
        round_to=settings.blocks_on("cpu"),
        batch_size=settings.latency_batch_size,
        num_tokens=max(1, round(calibration.mean_length)),
        precision=settings.latency_precision,
        threads=settings.latency_threads,
        one_token_last=reads_one_token(encoder, calibration[0]),
    )
    if settings.latency_table is not None:
        measured = given_table(settings.latency_table, situation)
    else:
        measured = latency_of_sub_layers(situation, context.progress)
    _tell_table(measured, situation, settings, context)
    tables = (*(measured.others.table for _ in layers[1:]), measured.last.table)

    def cost_of(left: Sequence[EncoderLayer]) -> Cost:
        heads = tuple(layer.num_heads for layer in left)
        neurons = tuple(layer.num_neurons for layer in left)
        return TableCost(tables, heads, neurons)

    return cost_of


def _tell_table(
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
