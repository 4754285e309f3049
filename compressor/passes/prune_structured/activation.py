"""Importance of heads, neurons and layers by their activations, without any gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.families.layers import Encoder
from compressor.passes.prune_structured.fisher import (
    Part,
    num_units,
    output_of,
    parts_of,
    require_finite,
    token_mask,
)
from compressor.passes.prune_structured.importance import UnitScores

# A layer's or projection's inputs and outputs, `(batch, tokens, features)`, in order of its calls.
_Seen = dict[nn.Module, list[tuple[Tensor, Tensor]]]


def activation_scores(
    encoder: Encoder, batches: Iterable[Mapping[str, Tensor]], team: Team = ALONE
) -> UnitScores:
    """Return the norm of what each unit computes, over that of its layer.

    It is the root of the mean, over all tokens without padding, of the squared output of a neuron
    after its activation function, or of a head (a vector) before the output projection. Each
    layer's scores are divided by their L2 norm, because activations grow from layer to layer.

    `batches` are inputs of the model by name, those of each process of a `team`; the model is put
    into evaluation mode. Raises `StepFailed` when there are none, or an activation is not finite.

    Ref: Muralidharan et al. 2024, arXiv:2407.14679, section 2.2 (there the sum of norms).
    """
    parts = parts_of(encoder.layers)
    sums = {part: torch.zeros(num_units(part), dtype=torch.float64) for part in parts if part}
    outputs = [output_of(part) for part in sums]
    for seen, inputs in watched_passes(encoder.module, outputs, batches, team):
        for part, total in sums.items():
            total += _squared_norms(part, [units for units, _ in seen[output_of(part)]], inputs)
    sums = {part: team.total(total) for part, total in sums.items()}
    for part, total in sums.items():
        require_finite(parts, part, total)
    none = torch.zeros(0, dtype=torch.float64)
    # The number of tokens is the same for all units of a layer, so it drops out.
    scores = [functional.normalize(sums[part].sqrt(), dim=0) if part else none for part in parts]
    return UnitScores(tuple(scores[0::2]), tuple(scores[1::2]))


def block_influences(
    encoder: Encoder, batches: Iterable[Mapping[str, Tensor]], team: Team = ALONE
) -> Tensor:
    """Return how far each layer turns the hidden states, shape `(layers,)`, float64 on the CPU.

    It is one minus the cosine of a token's hidden state before and after the layer, averaged over
    all tokens without padding; a layer near 0 does little.

    `batches` are inputs of the model by name, those of each process of a `team`; the model is put
    into evaluation mode. Raises `StepFailed` when there are none, or a hidden state is not finite.

    Ref: Men et al. 2024, arXiv:2403.03853, eq. 1.
    """
    layers = list(encoder.layer_list)
    sums, num_tokens = torch.zeros(len(layers), dtype=torch.float64), 0
    for seen, inputs in watched_passes(encoder.module, layers, batches, team):
        for index, layer in enumerate(layers):
            [(before, after)] = seen[layer]
            mask = token_mask(inputs, *before.shape[:2]).to(before.device)
            cosines = functional.cosine_similarity(before.double(), after.double(), dim=-1)
            sums[index] += (1 - cosines)[mask].sum().cpu()
        num_tokens += int(mask.sum())
    influences = team.total(sums) / int(team.total(torch.tensor(num_tokens)))
    if not influences.isfinite().all():
        broken = (~influences.isfinite()).nonzero()[0].item()
        raise StepFailed(
            f"the hidden states around layer {broken} are not finite on the calibration split; the "
            f"model's weights are broken, check the checkpoint or the training before this step"
        )
    return influences


def _squared_norms(part: Part, units: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the sum over a batch's tokens, shape `(units,)`, float64 on the CPU."""
    values = torch.cat(list(units), dim=1)  # one, or several where tokens are computed in chunks
    mask = token_mask(inputs, *values.shape[:2]).to(values.device)
    squares = values[mask].double().square().sum(dim=0)  # (features,)
    return squares.view(num_units(part), -1).sum(dim=1).cpu()


@torch.no_grad()
def watched_passes(
    module: nn.Module,
    watched: Sequence[nn.Module],
    batches: Iterable[Mapping[str, Tensor]],
    team: Team = ALONE,
) -> Iterator[tuple[_Seen, Mapping[str, Tensor]]]:
    """Yield what went through the watched modules in a forward pass over each batch."""
    module.eval()
    num_batches = 0
    for inputs in batches:
        num_batches += 1
        with _watching(watched) as seen:
            module(**inputs)
        yield seen, inputs
    if not int(team.total(torch.tensor(num_batches))):
        raise StepFailed("activations need at least one example to be measured on, got none")


@contextmanager
def _watching(watched: Sequence[nn.Module]) -> Iterator[_Seen]:
    seen: _Seen = {}

    def keep(
        part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]
    ) -> None:
        first = output[0] if isinstance(output, tuple) else output
        seen.setdefault(part, []).append((inputs[0], first))

    with ExitStack() as hooks:
        for part in watched:
            hooks.enter_context(part.register_forward_hook(keep))
        yield seen
