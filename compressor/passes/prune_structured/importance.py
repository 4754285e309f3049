"""How much each attention head and feed-forward neuron matters: random, magnitude, Taylor.

Scores compare units of one kind: the higher, the more is lost without the unit. A whole layer is
too much for such an estimate, so `layer_losses` measures the loss without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.families.layers import (
    Attention,
    Encoder,
    EncoderLayer,
    FeedForward,
    Rows,
    only_layers,
)
from compressor.passes.prune_structured.calibration_batches import LabelledInputs, summed_loss
from compressor.tasks import Task
from compressor.words import counted


@dataclass(frozen=True)
class UnitScores:
    """One float64 score for each unit, on the CPU.

    `heads[i]` and `neurons[i]` have shape `(units of layer i,)`, empty where a sub-layer is gone.
    """

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]


def random_scores(layers: Sequence[EncoderLayer], seed: int) -> UnitScores:
    """Draw every score from (0, 1): the baseline that any other importance has to beat."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    return UnitScores(
        tuple(draw(layer.num_heads) for layer in layers),
        tuple(draw(layer.num_neurons) for layer in layers),
    )


def magnitude_scores(layers: Sequence[EncoderLayer], order: Literal[1, 2] = 2) -> UnitScores:
    """Return the norm of all the weights that go when a unit goes, over that of its layer.

    For a head these are its rows of query, key and value (with biases, and of what else has rows
    for it) and its columns of the output projection; for a neuron its row of the first linear layer
    (with bias, and of the gate) and its column of the second. `order` 1 sums magnitudes, 2 is the
    Euclidean norm. Each layer's scores are divided by their L2 norm: how large weights are differs
    from layer to layer for reasons of its own.

    Raises `StepFailed` when a weight is not finite.

    Ref: Fang et al. 2023, arXiv:2301.12900 (the norm of a group); Li et al. 2017, arXiv:1608.08710
    (L1); Molchanov et al. 2017, arXiv:1611.06440 (dividing by the layer's norm).
    """
    return _require_finite(
        UnitScores(
            tuple(functional.normalize(_head_norms(layer, order), dim=0) for layer in layers),
            tuple(functional.normalize(_neuron_norms(layer, order), dim=0) for layer in layers),
        ),
        "the magnitude of weights",
    )


def taylor_scores(
    encoder: Encoder, batches: Iterable[LabelledInputs], task: Task, team: Team = ALONE
) -> UnitScores:
    """Estimate from gradients how much the loss changes when a unit is set to zero.

    Each unit's output is multiplied by a gate of 1 and the loss is differentiated by the gate,
    example by example, in evaluation mode; the score is the mean over examples of the absolute
    gradient. The loss is the task's on labels or, for examples without labels, on what the model
    itself predicts. Scores are in units of the loss in every layer, so they
    compare across layers as they are. Each process of a `team` has its own `batches`.

    Raises `StepFailed` when there are no examples, when a score is not finite, and without labels
    when the loss towards a model's own outputs has no gradient.
    Ref: Michel et al. 2019, arXiv:1905.10650 (heads; there divided by the layer's norm); Molchanov
    et al. 2019, arXiv:1906.10771 (gates and comparing layers as they are; there squared instead of
    absolute).
    """
    with _in_evaluation_mode(encoder.module):
        sums, own_examples = _sum_of_gate_gradients(encoder, batches, task)
    num_examples = int(team.total(torch.tensor(own_examples)))
    if num_examples == 0:
        raise StepFailed("Taylor importance needs at least one example, got none")
    means = UnitScores(
        tuple(team.total(score) / num_examples for score in sums.heads),
        tuple(team.total(score) / num_examples for score in sums.neurons),
    )
    return _require_finite(means, f"Taylor importance over {counted(num_examples, 'example')}")


def layer_losses(
    encoder: Encoder, batches: Sequence[LabelledInputs], task: Task, team: Team = ALONE
) -> Tensor:
    """Measure the loss without each layer, shape `(layers,)`, float64 on the CPU.

    The loss is the task's, a mean over examples, on labels or on what the whole model predicts. It
    takes one pass over `batches` for each layer, and one more without labels. Each process of a
    `team` has its own `batches`.

    Raises `StepFailed` when there are no examples or a loss is not finite.
    Ref: Kim et al. 2024, arXiv:2402.02834 (there by perplexity).
    """
    if not int(team.total(torch.tensor(len(batches)))):
        raise StepFailed("the loss without a layer needs at least one example, got none")
    module, every = encoder.module, range(len(encoder.layer_list))
    losses = []
    with _in_evaluation_mode(module), torch.no_grad():
        targets = [
            _own_targets(module, inputs, task) if labels is None else labels
            for inputs, labels in batches
        ]
        for index in every:
            with only_layers(encoder, [other for other in every if other != index]):
                losses.append(_mean_loss(module, batches, targets, task, team))
    if not all(map(math.isfinite, losses)):
        raise StepFailed(
            f"the loss without one layer is not finite ({losses}); check the model's weights"
        )
    return torch.tensor(losses, dtype=torch.float64)


def _require_finite(scores: UnitScores, name: str) -> UnitScores:
    for index, layer in enumerate(zip(scores.heads, scores.neurons, strict=True)):
        if not torch.cat(layer).isfinite().all():
            raise StepFailed(
                f"{name} is not finite in layer {index}, so units cannot be compared; the model's "
                f"weights are broken, check the checkpoint or the training before this step"
            )
    return scores


@contextmanager
def _in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _mean_loss(
    module: nn.Module,
    batches: Sequence[LabelledInputs],
    targets: Sequence[Tensor],
    task: Task,
    team: Team,
) -> float:
    total, num_examples = 0.0, 0
    for (inputs, _), target in zip(batches, targets, strict=True):
        outputs = task.output_of(module(**inputs))
        total += task.losses.on_labels(outputs, target).total.item()
        num_examples += len(outputs)
    sums = team.total(torch.tensor([total, num_examples], dtype=torch.float64))
    return float(sums[0] / sums[1])


def _own_targets(module: nn.Module, inputs: Mapping[str, Tensor], task: Task) -> Tensor:
    outputs = task.output_of(module(**inputs))
    return task.losses.own_targets(outputs, inputs.get("attention_mask"))


def _head_norms(layer: EncoderLayer, order: int) -> Tensor:
    part = layer.attention
    if part is None:
        return torch.zeros(0, dtype=torch.float64)
    inputs = [its for rows in part.rows for its in _row_powers(rows, part.head_dim, order)]
    powers = torch.stack([*inputs, _column_powers(part.output, order)]).sum(dim=0)
    return powers.view(part.num_heads, part.head_dim).sum(dim=1).pow(1 / order)  # (heads,)


def _neuron_norms(layer: EncoderLayer, order: int) -> Tensor:
    part = layer.feed_forward
    if part is None:
        return torch.zeros(0, dtype=torch.float64)
    inputs = [its for rows in part.rows for its in _row_powers(rows, 1, order)]
    powers = torch.stack([*inputs, _column_powers(part.ffn_out, order)]).sum(dim=0)
    return powers.pow(1 / order)  # (neurons,)


def _row_powers(rows: Rows, dim: int, order: int) -> Iterator[Tensor]:
    """Yield the sums of rows, `dim` of each unit at a time, shape `(units * dim,)` each.

    Keys that several query heads share have fewer rows; zeros stand in the place of the others.
    """
    total = torch.zeros(len(rows.parameters[0]), dtype=torch.float64)
    for parameter in rows.parameters:
        powers = parameter.detach().double().abs().pow(order)
        total += powers.view(len(powers), -1).sum(dim=1).cpu()
    by_unit = functional.pad(total.view(rows.parts, -1, rows.size), (0, max(0, dim - rows.size)))
    for part in by_unit:  # (units, rows of a unit)
        for share in part.split(dim, dim=1):
            yield share.flatten()


def _column_powers(linear: nn.Linear, order: int) -> Tensor:
    return linear.weight.detach().double().abs().pow(order).sum(dim=0).cpu()  # (in_features,)


@dataclass
class _Gates:
    """The gates of one sub-layer: `dim` neighbouring features of a linear layer's input each."""

    linear: nn.Linear
    count: int
    dim: int
    values: Tensor | None = None  # (batch, count), new for each batch

    def multiply(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Multiply a linear layer's input, shape `(batch, tokens, count * dim)`, by the gates."""
        hidden_states = arguments[0]
        units = hidden_states.view(*hidden_states.shape[:-1], self.count, self.dim)
        if self.values is None:  # a chunked feed-forward comes here several times in one pass
            self.values = units.new_ones(len(units), self.count, requires_grad=True)
        return ((units * self.values[:, None, :, None]).flatten(-2),)


def _gates_of(part: Attention | FeedForward | None) -> _Gates | None:
    if isinstance(part, Attention):
        return _Gates(part.output, part.num_heads, part.head_dim)
    return None if part is None else _Gates(part.ffn_out, part.num_neurons, 1)


@contextmanager
def _hooked(gates: Sequence[_Gates | None]) -> Iterator[None]:
    with ExitStack() as hooks:
        for gate in filter(None, gates):
            hooks.enter_context(gate.linear.register_forward_pre_hook(gate.multiply))
        yield


def _sum_of_gate_gradients(
    encoder: Encoder, batches: Iterable[LabelledInputs], task: Task
) -> tuple[UnitScores, int]:
    parts = [part for layer in encoder.layers for part in (layer.attention, layer.feed_forward)]
    gates = [_gates_of(part) for part in parts]
    sums = [torch.zeros(gate.count if gate else 0, dtype=torch.float64) for gate in gates]
    num_examples = 0
    with _hooked(gates), torch.enable_grad():
        for inputs, labels in batches:
            # (batch, units) each
            gradients = _gate_gradients(encoder.module, gates, inputs, labels, task)
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient.abs().sum(dim=0)
            num_examples += len(gradients[0])
    return UnitScores(tuple(sums[0::2]), tuple(sums[1::2])), num_examples


def _gate_gradients(
    module: nn.Module,
    gates: Sequence[_Gates | None],
    inputs: Mapping[str, Tensor],
    labels: Tensor | None,
    task: Task,
) -> list[Tensor]:
    for gate in gates:
        if gate:
            gate.values = None
    outputs = task.output_of(module(**inputs))
    # Summed, not averaged, so that each row of a gate's gradient is its own example's.
    loss = summed_loss(task, outputs, inputs, labels)
    wanted = [gate.values for gate in gates if gate and gate.values is not None]
    found = iter(torch.autograd.grad(loss, wanted))
    return [
        next(found).double().cpu() if gate else torch.zeros(len(outputs), 0, dtype=torch.float64)
        for gate in gates
    ]
