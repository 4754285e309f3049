"""Importance of heads and neurons by the information in what they compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from compressor.machine.team import ALONE, Team
from compressor.models.families.layers import Attention, Encoder
from compressor.passes.prune_structured.activation import watched_passes
from compressor.passes.prune_structured.calibration_batches import LabelledInputs, shared_out
from compressor.passes.prune_structured.fisher import (
    Part,
    num_units,
    output_of,
    parts_of,
    require_finite,
    token_mask,
)
from compressor.passes.prune_structured.histograms import Information, Observations
from compressor.passes.prune_structured.importance import UnitScores


def information_scores(
    encoder: Encoder,
    batches: Iterable[LabelledInputs],
    kind: Information,
    num_rows: int,
    seed: int,
    team: Team = ALONE,
) -> tuple[UnitScores, str]:
    """Return the information in what each unit computes, in nats, and what was counted, in words.

    A neuron's value at a token is its output after the activation function, a head's the norm of
    its vector before the output projection; over a row they are averaged, and the histogram is of
    rows (of labelled tokens, for the mutual information where each token has a label). Nats are
    comparable between layers as they are. `num_rows` is how many rows `batches` have together, of
    which each process of a `team` measures its own.

    Raises `StepFailed` when rows or labels do not do, or an activation is not finite.
    """
    parts = parts_of(encoder.layers)
    watched = {number: part for number, part in enumerate(parts) if part}
    labels: list[Tensor | None] = []

    def unlabelled() -> Iterator[Mapping[str, Tensor]]:
        for inputs, targets in shared_out(
            batches, team, lambda batch: observed.pass_over(batch[1])
        ):
            labels.append(targets)
            yield inputs

    observed = Observations(kind, num_rows, seed)
    linears = [output_of(part) for part in watched.values()]
    for seen, inputs in watched_passes(encoder.module, linears, unlabelled(), team):
        values = {}
        mask = None
        for number, part in watched.items():
            units = torch.cat([found for found, _ in seen[output_of(part)]], dim=1)
            require_finite(parts, part, units)
            values[number] = _by_unit(part, units)
            mask = token_mask(inputs, *units.shape[:2]).to(units.device)
        if mask is not None:
            observed.add(values, mask, labels.pop())
    observed.share(team, watched)
    scores = observed.scores()
    none = torch.zeros(0, dtype=torch.float64)
    found = [scores.get(number, none) for number in range(len(parts))]
    return UnitScores(tuple(found[0::2]), tuple(found[1::2])), observed.words


def _by_unit(part: Part, values: Tensor) -> Tensor:
    """Return one number for each unit, shape `(batch, tokens, units)`."""
    if not isinstance(part, Attention):
        return values
    heads = values.view(*values.shape[:2], num_units(part), -1)
    return heads.square().sum(dim=-1).sqrt()
