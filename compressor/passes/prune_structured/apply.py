"""The work of `prune_structured`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compressor.errors import StepFailed
from compressor.models.families.layers import encoder_layers, require_prunable_heads
from compressor.models.structure import configure_shape
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, NothingToRemove, PassContext
from compressor.passes.prune_structured.activation import activation_scores
from compressor.passes.prune_structured.by_reconstruction import (
    Reconstruction,
    check_reconstruction,
)
from compressor.passes.prune_structured.fisher import fisher_scores
from compressor.passes.prune_structured.importance import (
    UnitScores,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from compressor.passes.prune_structured.layer_choice import calibration_batches, drop_layers
from compressor.passes.prune_structured.settings import PruneByReconstruction, PruneByScores
from compressor.passes.prune_structured.unit_removal import (
    Removed,
    Scope,
    prune_heads,
    prune_neurons,
    select_units,
)
from compressor.passes.recovery import RecoveryTraining, look_at_recovery
from compressor.training.layer_map import LayerMap
from compressor.training.optimizer_state import Moments
from compressor.training.schedules import cubic_sparsity

Settings = PruneByScores | PruneByReconstruction


def look_ahead(settings: Settings, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for the parts of every layer, whether as many units can go, and at the recovery.

    A pass before may leave fewer units; what cannot go from all of them cannot go from some.
    """
    layers = encoder_layers(model.module)
    if settings.takes_heads:
        require_prunable_heads(model.module)
    if settings.uniform:
        _require_equal_layers(model)
    alike = len({(layer.num_heads, layer.num_neurons) for layer in layers}) == 1
    if isinstance(settings, PruneByScores) and (alike or not settings.changes_layers):
        left = settings.layers or len(layers) - len(settings.drop_layers or ())
        _Ratios.of(model, settings, num_layers=left)
    look_at_recovery(settings.recovery, model, ahead)
    return model


def apply(settings: Settings, model: TorchModel, context: PassContext) -> TorchModel:
    """Prune `model` in place.

    Raises `StepFailed` before anything is trained when the ratios, `layers` or `drop_layers`
    cannot be met by this model; `UnsupportedArchitecture` is one of them. Raises
    `EnvironmentMismatch` when a latency table cannot be stored, or its times vary too much.
    """
    model.module.to(context.device)
    depth = len(encoder_layers(model.module))
    if settings.uniform:
        _require_equal_layers(model)
    _check_early(model, settings, context)
    training = RecoveryTraining.prepare(settings.recovery, model, context)
    kept = drop_layers(model, settings, context)
    if len(kept) < depth:
        stay = ", ".join(map(str, kept))
        context.note(f"layers {depth} -> {len(kept)} (those that stay, counted from 0: {stay})")
    layers = encoder_layers(model.module)
    heads, neurons = [it.num_heads for it in layers], [it.num_neurons for it in layers]
    goals: Goals = (
        _Ratios.of(model, settings)
        if isinstance(settings, PruneByScores)
        else Reconstruction.prepare(model, settings, context)
    )
    moments = Moments()
    # Each layer learns from the one it was in the teacher, whatever was removed around it.
    layer_map = tuple(enumerate(kept)) if training and training.teaches(depth) else None
    recover = _recover(training, settings, context, layer_map)
    for step in range(1, settings.steps + 1):
        if goals.removes_units:
            removed = goals.prune_to(_progress(settings, step), model, context)
            moments.follow(model.module, removed.heads, removed.neurons)
        if step == settings.steps:
            layers = encoder_layers(model.module)
            # With method reconstruction a ratio says nothing about either kind.
            by_kind = settings.method == "scores"
            shares = (settings.heads_to_remove, settings.neurons_to_remove) if by_kind else (0, 0)
            left = [it.num_heads for it in layers], [it.num_neurons for it in layers]
            _note_units(context, "attention heads", heads, left[0], shares[0])
            _note_units(context, "FFN neurons", neurons, left[1], shares[1])
            if settings.uniform:
                _configure(model, context)
        recover(model, step, moments)
    return model


def _progress(settings: Settings, step: int) -> float:
    """Return the fraction of the ratios that is gone after a step, counted from 1."""
    if settings.step_schedule == "linear":
        return step / settings.steps
    return cubic_sparsity(step, begin=0, end=settings.steps, initial=0.0, final=1.0)


def _require_equal_layers(model: TorchModel) -> None:
    layers = encoder_layers(model.module)
    if len({(layer.num_heads, layer.num_neurons) for layer in layers}) > 1:
        raise StepFailed(
            f"uniform: the layers of this model differ already (heads "
            f"{[layer.num_heads for layer in layers]}, neurons "
            f"{[layer.num_neurons for layer in layers]}); start from the checkpoint before it was "
            f"pruned, or leave uniform out"
        )


def _configure(model: TorchModel, context: PassContext) -> None:
    """Make the checkpoint a plain one, or say why it is not."""
    reasons = configure_shape(model.module)
    context.record("plain_checkpoint", not reasons)
    if not reasons:
        context.note("all layers are alike, as config.json says: transformers alone loads this")
        return
    context.note(
        f"all layers are alike, but {'; '.join(reasons)}: the checkpoint keeps structure.json and "
        f"loads with compressor.load_checkpoint, not with transformers alone"
    )


def _check_early(model: TorchModel, settings: Settings, context: PassContext) -> None:
    """Raise `StepFailed` for what cannot be done, where that is known before layers are measured.

    Which layers will stay is not; where all are alike, it does not matter.
    """
    if not settings.measures_layers:
        return
    alike = len({(it.num_heads, it.num_neurons) for it in encoder_layers(model.module)}) == 1
    if isinstance(settings, PruneByReconstruction):
        check_reconstruction(model, settings, context, any_layers=alike)
    elif alike:
        _Ratios.of(model, settings, num_layers=settings.layers)


class Goals(Protocol):
    """How far a method has to prune."""

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go, and not only layers."""

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> Removed:
        """Remove units until the fraction `progress` of the way is gone, and return which."""


@dataclass(frozen=True)
class _Ratios:
    """How many heads and neurons each layer had at the start, and which fraction goes."""

    settings: PruneByScores
    round_to: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @classmethod
    def of(
        cls, model: TorchModel, settings: PruneByScores, num_layers: int | None = None
    ) -> _Ratios:
        """Raise `StepFailed` when the ratios cannot be met: too many would go, or none."""
        layers = encoder_layers(model.module)[:num_layers]
        goals = cls(
            settings,
            settings.blocks_on(model.device.type),
            tuple(layer.num_heads for layer in layers),
            tuple(layer.num_neurons for layer in layers),
        )
        if settings.heads_to_remove > 0:
            require_prunable_heads(model.module)
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

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> Removed:
        """Remove the lowest-scored units until the fraction `progress` of the ratios is reached."""
        settings = self.settings
        scores = _score(model, settings, context)
        heads = self._select(scores.heads, progress * settings.heads_to_remove, 1, self.heads)
        neurons = self._select(
            scores.neurons,
            progress * settings.neurons_to_remove,
            self.round_to,
            self.neurons,
        )
        if heads:
            prune_heads(model.module, heads)
        if neurons:
            prune_neurons(model.module, neurons)
        return Removed(heads, neurons)

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


def _score(model: TorchModel, settings: PruneByScores, context: PassContext) -> UnitScores:
    if settings.importance == "random":
        return random_scores(model.module, context.seed)
    if settings.importance in ("magnitude", "magnitude_l1"):
        return magnitude_scores(model.module, order=1 if settings.importance[-1] == "1" else 2)
    batches = calibration_batches(model, settings, context, "measuring heads and neurons")
    if settings.importance == "taylor":
        return taylor_scores(model.module, batches, model.task)
    unlabelled = (inputs for inputs, _ in batches)
    if settings.importance == "fisher":
        return fisher_scores(model.module, unlabelled, model.task, seed=context.seed)
    return activation_scores(model.module, unlabelled)


def _recover(
    training: RecoveryTraining | None,
    settings: Settings,
    context: PassContext,
    layer_map: LayerMap | None,
) -> Callable[[TorchModel, int, Moments], None]:
    """Return what trains a model after each step, if anything."""
    if training is None:
        return lambda _, __, ___: None
    part = training.in_parts(settings.steps)

    def recover(model: TorchModel, step: int, moments: Moments) -> None:
        several = settings.steps > 1
        part.train(
            model,
            context,
            name=f"recovery-{step}",
            place=f" after step {step} of {settings.steps}" if several else "",
            # The seed decides which rows come first; a part may end before the others are read.
            seed=context.seed + step - 1,
            layer_map=layer_map,
            moments=moments if several else None,
        )

    return recover


def _note_units(
    context: PassContext, name: str, before: Sequence[int], after: Sequence[int], ratio: float
) -> None:
    if sum(before) != sum(after):
        by_layer = ", ".join(map(str, after))
        context.note(f"{name} {sum(before)} -> {sum(after)} (by layer: {by_layer})")
    elif ratio > 0:
        context.note(f"ratio {ratio:g} rounds to 0 {name}; none removed")
