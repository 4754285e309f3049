"""The work of `prune_structured`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from compressor.models.architectures import encoder_layers, require_prunable_heads
from compressor.models.structure import keep_layers
from compressor.models.torch_model import TorchModel
from compressor.passes._base import PassContext
from compressor.passes._reconstruction import Reconstruction
from compressor.pruning.fisher import fisher_scores
from compressor.pruning.importance import (
    LabelledInputs,
    UnitScores,
    layer_losses,
    magnitude_scores,
    random_scores,
    taylor_scores,
)
from compressor.pruning.structure import prune_heads, prune_neurons, select_units
from compressor.training.recovery import distill, finetune
from compressor.training.settings import DistillRecovery, FinetuneRecovery
from compressor.training.trainer import TrainingRun, TrainingSummary

if TYPE_CHECKING:
    from compressor.passes.prune_structured import PruneStructured

_ROWS_PER_BATCH = 32


def prune_and_recover(
    model: TorchModel, settings: PruneStructured, context: PassContext
) -> TorchModel:
    """Do what `PruneStructured.apply` promises."""
    model.module.to(context.device)
    depth = len(encoder_layers(model.module))
    kept = _drop_layers(model, settings, context)
    if len(kept) < depth:
        stay = ", ".join(map(str, kept))
        context.note(f"layers {depth} -> {len(kept)} (those that stay, counted from 0: {stay})")
    layers = encoder_layers(model.module)
    heads, neurons = [it.num_heads for it in layers], [it.num_neurons for it in layers]
    goals: Goals = (
        Reconstruction.prepare(model, settings, context)
        if settings.method == "reconstruction"
        else _Ratios.of(model, settings)
    )
    recover = _recovery(settings, context, kept, depth)
    for step in range(1, settings.steps + 1):
        if goals.removes_units:
            goals.prune_to(step / settings.steps, model, context)
        if step == settings.steps:
            layers = encoder_layers(model.module)
            _note_units(context, "attention heads", heads, [it.num_heads for it in layers])
            _note_units(context, "FFN neurons", neurons, [it.num_neurons for it in layers])
        recover(model, step)
    return model


class Goals(Protocol):
    """How far a method has to prune."""

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go, and not only layers."""

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> None:
        """Remove units until the fraction `progress` of the way is gone."""


@dataclass(frozen=True)
class _Ratios:
    """How many heads and neurons each layer had at the start, and which fraction goes."""

    settings: PruneStructured
    heads: tuple[int, ...]
    neurons: tuple[int, ...]

    @classmethod
    def of(cls, model: TorchModel, settings: PruneStructured) -> _Ratios:
        """Raise `ValueError` when the ratios cannot be met: too many would go, or none."""
        layers = encoder_layers(model.module)
        goals = cls(
            settings,
            tuple(layer.num_heads for layer in layers),
            tuple(layer.num_neurons for layer in layers),
        )
        if settings.heads_to_remove > 0:
            require_prunable_heads(model.module)
            goals.check("head", goals.heads, settings.heads_to_remove, 1)
        if settings.neurons_to_remove > 0:
            goals.check("neuron", goals.neurons, settings.neurons_to_remove, settings.blocks_of)
        return goals

    @property
    def removes_units(self) -> bool:
        """Return whether heads or neurons go, and not only layers."""
        return self.settings.heads_to_remove > 0 or self.settings.neurons_to_remove > 0

    def check(self, unit: str, counts: Sequence[int], ratio: float, round_to: int) -> None:
        """Raise `ValueError` unless `ratio` removes some units and leaves those that must stay."""
        try:
            removed = self._select([torch.zeros(count) for count in counts], ratio, round_to)
        except ValueError as error:
            raise ValueError(f"{unit}_ratio: {error}") from error
        if not removed:
            smaller_blocks = ", a smaller round_to" if round_to > 1 else ""
            raise ValueError(
                f"{unit}_ratio: {ratio:g} of the {unit}s is none (layers have {list(counts)}, "
                f"scope is '{self.settings.scope}', each layer keeps a multiple of {round_to}); "
                f"use a larger ratio{smaller_blocks}, or {unit}_ratio: 0 to keep all {unit}s"
            )

    def prune_to(self, progress: float, model: TorchModel, context: PassContext) -> None:
        """Remove the lowest-scored units until the fraction `progress` of the ratios is reached."""
        settings = self.settings
        scores = _score(model, settings, context)
        heads = self._select(scores.heads, progress * settings.heads_to_remove, 1, self.heads)
        neurons = self._select(
            scores.neurons,
            progress * settings.neurons_to_remove,
            settings.blocks_of,
            self.neurons,
        )
        if heads:
            prune_heads(model.module, heads)
        if neurons:
            prune_neurons(model.module, neurons)

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
            scope=self.settings.scope,
            round_to=round_to,
            counts=counts,
            may_empty_layers=self.settings.may_empty_layers,
        )


def _drop_layers(
    model: TorchModel, settings: PruneStructured, context: PassContext
) -> tuple[int, ...]:
    """Remove whole layers and return the indices of those that stay."""
    depth = len(encoder_layers(model.module))
    kept = list(range(depth))
    if settings.drop_layers is not None:
        kept = [index for index in kept if index not in settings.drop_layers]
        if not kept or max(settings.drop_layers) >= depth:
            raise ValueError(
                f"drop_layers: the model has layers 0 to {depth - 1} and one has to stay, "
                f"got {list(settings.drop_layers)}"
            )
        keep_layers(model.module, kept)
    if settings.layers is not None:
        if settings.layers >= depth:
            raise ValueError(
                f"layers: the model has {depth} layers, so fewer have to stay, "
                f"got {settings.layers}"
            )
        batches = list(_batches(model, settings, context, "reading calibration rows"))
        with context.progress.bar("measuring layers", depth - settings.layers) as advance:
            while len(kept) > settings.layers:
                weakest = int(layer_losses(model.module, batches).argmin())
                del kept[weakest]
                keep_layers(model.module, [i for i in range(len(kept) + 1) if i != weakest])
                advance()
    return tuple(kept)


def _score(model: TorchModel, settings: PruneStructured, context: PassContext) -> UnitScores:
    if settings.importance == "random":
        return random_scores(model.module, context.seed)
    if settings.importance == "magnitude":
        return magnitude_scores(model.module)
    batches = _batches(model, settings, context, "measuring heads and neurons")
    if settings.importance == "fisher":
        unlabelled = (inputs for inputs, _ in batches)
        return fisher_scores(model.module, unlabelled, seed=context.seed)
    return taylor_scores(model.module, batches)


def _batches(
    model: TorchModel, settings: PruneStructured, context: PassContext, description: str
) -> Iterator[LabelledInputs]:
    """Yield some rows of the calibration split, chosen by the seed, with their labels if any."""
    dataset = context.calibration
    chosen = np.random.default_rng(context.seed).permutation(len(dataset))
    chosen = chosen[: settings.rows_to_measure]
    with context.progress.bar(description, len(chosen)) as advance:
        for start in range(0, len(chosen), _ROWS_PER_BATCH):
            rows = chosen[start : start + _ROWS_PER_BATCH]
            examples = [dataset.examples[row] for row in rows]
            encoded = model.task.encode(model.preprocessor, examples)
            inputs = {
                name: torch.from_numpy(value).to(context.device) for name, value in encoded.items()
            }
            labels = None
            if dataset.labels is not None:
                labels = torch.from_numpy(dataset.labels[rows]).to(context.device)
            yield inputs, labels
            advance(len(rows))


def _recovery(
    settings: PruneStructured, context: PassContext, kept: tuple[int, ...], depth: int
) -> Callable[[TorchModel, int], None]:
    """Return what trains a model after each step, if anything; a teacher is loaded here, once."""
    if settings.recovery is None:
        return lambda _, __: None
    train = _trainer(settings.recovery, context, kept, depth)

    def recover(model: TorchModel, step: int) -> None:
        place = f" after step {step} of {settings.steps}" if settings.steps > 1 else ""
        work_dir = context.work_dir / f"recovery-{step}"
        work_dir.mkdir(parents=True)
        summary = train(
            model,
            TrainingRun(
                context.device, context.seed, work_dir, context.progress, f"recovery{place}"
            ),
        )
        context.note(f"recovery{place}: {summary.sentence()}")

    return recover


def _trainer(
    recovery: FinetuneRecovery | DistillRecovery,
    context: PassContext,
    kept: tuple[int, ...],
    depth: int,
) -> Callable[[TorchModel, TrainingRun], TrainingSummary]:
    if isinstance(recovery, FinetuneRecovery):
        return lambda model, run: finetune(model, context.train, recovery, run)
    teacher = context.load_baseline()
    # Each layer learns from the one it was in the teacher, whatever was removed around it.
    same_depth = len(encoder_layers(teacher.module)) == depth
    layer_map = tuple(enumerate(kept)) if same_depth else None
    return lambda model, run: distill(
        model, teacher, context.train, recovery, run, layer_map=layer_map
    )


def _note_units(
    context: PassContext, name: str, before: Sequence[int], after: Sequence[int]
) -> None:
    if sum(before) != sum(after):
        by_layer = ", ".join(map(str, after))
        context.note(f"{name} {sum(before)} -> {sum(after)} (by layer: {by_layer})")
