"""Decides how many heads and neurons each layer keeps under one budget.

Throughout, `ratio` is the fraction of the cost that goes, and `budget` the cost that may stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compressor.errors import StepFailed
from compressor.models.families.layers import EncoderLayer, Rows
from compressor.passes.prune_structured.importance import UnitScores

Target = Literal["flops", "parameters"]
# Indices of units by index of the layer, both counted from 0.
UnitsByLayer = dict[int, list[int]]
Numbers = NDArray[np.float64]

_STEPS = 20_000  # into which the budget is cut
_ROUNDING = 1e-12  # of a budget that is met exactly


@dataclass(frozen=True)
class EncoderCost:
    """What an encoder costs, all of one kind: FLOPs for each token, or parameters.

    `fixed` is what stays when every head and neuron is gone.
    """

    head: float
    neuron: float
    heads: tuple[int, ...]  # by layer
    neurons: tuple[int, ...]
    fixed: float = 0.0

    @property
    def total(self) -> float:
        """Return the cost of the whole encoder."""
        return self.fixed + self.head * sum(self.heads) + self.neuron * sum(self.neurons)

    def of_layer(self, layer: int, heads: int, neurons: int) -> float:  # noqa: ARG002 - a protocol
        """Return what a layer with as many units adds to `fixed`, the same for every `layer`."""
        return self.head * heads + self.neuron * neurons


def encoder_cost(layers: Sequence[EncoderLayer], target: Target, mean_length: float) -> EncoderCost:
    """Count the matmuls of a token in a sequence of `mean_length` tokens, or parameters.

    FLOPs are two for each multiply-add, of the four projections of attention, its scores (with
    those of relative positions) and its weighted sum, and the linear layers of the feed-forward
    network; norms, activations, embeddings and the classification head are left out. Parameters are
    all of the encoder's layers.
    """
    heads = tuple(layer.num_heads for layer in layers)
    neurons = tuple(layer.num_neurons for layer in layers)
    attention = next((layer.attention for layer in layers if layer.attention), None)
    feed_forward = next((layer.feed_forward for layer in layers if layer.feed_forward), None)
    head = neuron = 0.0
    if target == "flops":
        if attention is not None:
            hidden_size = attention.output.out_features
            keys = 2 * mean_length
            if attention.relative is not None:
                keys += attention.relative.met(mean_length)
            shared = attention.query.out_features // attention.key.out_features
            # Keys and values are as wide as queries, or a part of it.
            head = 2.0 * attention.head_dim * ((2 + 2 / shared) * hidden_size + keys)
        if feed_forward is not None:
            matrices = 1 + sum(rows.each for rows in feed_forward.rows)
            neuron = 2.0 * matrices * feed_forward.ffn_out.out_features
        return EncoderCost(head, neuron, heads, neurons)
    if attention is not None:
        columns = attention.head_dim * attention.output.out_features
        of_biases = sum(len(held.parameter) for held in attention.columns)
        head = float(columns + of_biases + sum(map(_numbers_of_a_unit, attention.rows)))
    if feed_forward is not None:
        columns = feed_forward.ffn_out.out_features
        neuron = float(columns + sum(map(_numbers_of_a_unit, feed_forward.rows)))
    everything = sum(
        parameter.numel() for layer in layers for parameter in layer.module.parameters()
    )
    units = head * sum(heads) + neuron * sum(neurons)
    return EncoderCost(head, neuron, heads, neurons, everything - units)


def _numbers_of_a_unit(rows: Rows) -> int:
    """Return how many numbers go with a unit."""
    return sum(parameter[0].numel() for parameter in rows.parameters) * rows.each


class Cost(Protocol):
    """What an encoder costs, and what its layers would cost with other numbers of units."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Return the heads of each layer."""

    @property
    def neurons(self) -> tuple[int, ...]:
        """Return the neurons of each layer."""

    @property
    def total(self) -> float:
        """Return the cost of the whole encoder."""

    def of_layer(self, layer: int, heads: int, neurons: int) -> float:
        """Return what a layer, counted from 0, with as many units adds to what is fixed."""


@dataclass(frozen=True)
class Freedom:
    """Which units may go, and in which numbers: each layer keeps a multiple of `round_to` neurons.

    A layer whose width is not such a multiple may also keep all of its neurons. `uniform` layers
    keep the same numbers, at least one head and one block of neurons each.
    """

    round_to: int
    heads: bool = True
    neurons: bool = True
    uniform: bool = False


def check_ratio(cost: Cost, ratio: float, freedom: Freedom) -> None:
    """Raise `StepFailed` when `ratio` of `cost` cannot go, or only with every unit there is."""
    if freedom.uniform:
        now = _of_equal_layers(cost, cost.heads[0], cost.neurons[0])
        removable = now - min(
            _of_equal_layers(cost, *counts) for counts in _equal_counts(cost, freedom)
        )
        why = (
            f"with one head and {freedom.round_to} neurons left in every layer, as far as those "
            f"may go, {{}} of it are gone"
        )
    else:
        removable = sum(
            cost.of_layer(layer, heads, neurons)
            - cost.of_layer(layer, 0 if freedom.heads else heads, 0 if freedom.neurons else neurons)
            for layer, (heads, neurons) in enumerate(zip(cost.heads, cost.neurons, strict=True))
        )
        removable -= _cheapest_block(cost, freedom)
        kinds = [name for name in ("heads", "neurons") if getattr(freedom, name)]
        why = (
            f"its {' and '.join(kinds)} less one block of {freedom.round_to} neurons or one head "
            f"are {{}} of it"
        )
    _require_reach(ratio, removable / cost.total if cost.total else 0.0, why)


def _cheapest_block(cost: Cost, freedom: Freedom) -> float:
    """Return what the cheapest head or block of neurons adds to a layer without any."""
    sizes: list[tuple[int, int, int]] = []
    for layer, (heads, neurons) in enumerate(zip(cost.heads, cost.neurons, strict=True)):
        if freedom.heads and heads:
            sizes.append((layer, 1, 0))
        if freedom.neurons and neurons:
            sizes.append((layer, 0, min(freedom.round_to, neurons)))
    added = (cost.of_layer(*size) - cost.of_layer(size[0], 0, 0) for size in sizes)
    return min(added, default=0.0)


def _require_reach(ratio: float, largest: float, why: str) -> None:
    if ratio > largest + 1e-9:  # what is exactly within reach is not lost to rounding
        rounded = f"{math.floor(1000 * (largest + 1e-9)) / 1000:g}"
        raise StepFailed(
            f"ratio: {ratio:g} of the encoder cannot go: {why.format(rounded)}; use a smaller ratio"
        )


def units_to_remove(
    scores: UnitScores, cost: Cost, budget: float, freedom: Freedom
) -> tuple[UnitsByLayer, UnitsByLayer]:
    """Return the heads and the neurons that go, so that the rest costs at most `budget`.

    Within a layer the best units stay. A layer may lose all its units, unless all are to stay
    `uniform`: then the pair of numbers that fits with the highest sum of scores wins. Otherwise the
    numbers of all layers with the highest sum of scores are found by dynamic programming.

    `check_ratio` tells whether there is a solution.
    """
    budget += 1e-9 * cost.total  # a choice that meets the budget exactly is not lost to rounding
    if freedom.uniform:
        heads, neurons = _best_equal_counts(scores, cost, budget, freedom)
    else:
        heads, neurons = _best_counts(scores, cost, budget, freedom)
    return _worst(scores.heads, heads), _worst(scores.neurons, neurons)


def _equal_counts(cost: Cost, freedom: Freedom) -> Iterator[tuple[int, int]]:
    """Yield the numbers of heads and of neurons that equal layers may keep."""
    for heads in _counts(cost.heads[0], 1, freedom.heads):
        for neurons in _counts(cost.neurons[0], freedom.round_to, freedom.neurons):
            if (heads or not cost.heads[0]) and (neurons or not cost.neurons[0]):
                yield heads, neurons


def _counts(present: int, block: int, may_go: bool) -> list[int]:
    """Return how many of the units that are present may stay, fewest first."""
    return [*(range(0, present, block) if may_go else ()), present]


def _best_equal_counts(
    scores: UnitScores, cost: Cost, budget: float, freedom: Freedom
) -> tuple[list[int], list[int]]:
    """Return how many heads and how many neurons each layer keeps, the same number in all."""
    num_layers = len(cost.heads)
    heads = sum(map(_sums_of_best, scores.heads), torch.zeros(1))
    neurons = sum(map(_sums_of_best, scores.neurons), torch.zeros(1))
    fixed = cost.total - _of_equal_layers(cost, cost.heads[0], cost.neurons[0])
    fitting = [
        counts
        for counts in _equal_counts(cost, freedom)
        if fixed + _of_equal_layers(cost, *counts) <= budget
    ]
    assert fitting, "check_ratio lets no budget pass that nothing meets"
    best = max(fitting, key=lambda counts: float(heads[counts[0]] + neurons[counts[1]]))
    return [best[0]] * num_layers, [best[1]] * num_layers


def _of_equal_layers(cost: Cost, heads: int, neurons: int) -> float:
    """Return what all layers add to what is fixed, with the same numbers of units in each."""
    return sum(cost.of_layer(layer, heads, neurons) for layer in range(len(cost.heads)))


def _best_counts(
    scores: UnitScores, cost: Cost, budget: float, freedom: Freedom
) -> tuple[list[int], list[int]]:
    """Return how many heads and how many neurons each layer keeps, where any numbers may."""
    costs, values, counts = [], [], []
    bare = [cost.of_layer(layer, 0, 0) for layer in range(len(cost.heads))]
    present = enumerate(zip(cost.heads, cost.neurons, strict=True))
    fixed = cost.total - sum(cost.of_layer(layer, *units) for layer, units in present)
    of_both = zip(scores.heads, scores.neurons, strict=True)
    for layer, (heads, neurons) in enumerate(of_both):
        for layer_scores, block, may_go, is_heads in (
            (heads, 1, freedom.heads, True),
            (neurons, freedom.round_to, freedom.neurons, False),
        ):
            # The most first: what scores nothing stays where there is room for it.
            options = _counts(len(layer_scores), block, may_go)[::-1]
            sizes = [(count, 0) if is_heads else (0, count) for count in options]
            costs.append(np.array([cost.of_layer(layer, *size) - bare[layer] for size in sizes]))
            values.append(_sums_of_best(layer_scores)[options].numpy())
            counts.append(options)
    picks = best_choices(costs, values, budget - fixed - sum(bare))
    kept = [options[pick] for options, pick in zip(counts, picks, strict=True)]
    return kept[0::2], kept[1::2]


def _sums_of_best(scores: Tensor) -> Tensor:
    """Return what the best 0, 1, 2, ... units score together, shape `(units + 1,)`."""
    ranked = scores.sort(descending=True).values
    return functional.pad(ranked.cumsum(dim=0), (1, 0))


def _worst(scores: Sequence[Tensor], kept: Sequence[int]) -> UnitsByLayer:
    return {
        layer: sorted(layer_scores.argsort(descending=True, stable=True)[number:].tolist())
        for layer, (layer_scores, number) in enumerate(zip(scores, kept, strict=True))
        if number < len(layer_scores)
    }


def best_choices(costs: Sequence[Numbers], values: Sequence[Numbers], budget: float) -> list[int]:
    """Choose one option of each group, for the largest sum of values whose cost is in `budget`.

    `costs[i]` and `values[i]` have shape `(options of group i,)`; the first of equally good options
    wins. This is the multiple-choice knapsack, solved by dynamic programming over a grid: what an
    option costs above the cheapest of its group is rounded up to a 20,000th of what the budget
    leaves for that. So the budget always holds, and only choices that differ in cost by less than
    such a step for each group may be taken for each other. The budget is not touched in between:
    what is spent in one group is known to all others.

    Raises `ValueError` when the cheapest options together cost more than `budget`.
    Ref: Kellerer et al. 2004, Knapsack Problems, section 11.5.
    """
    least = sum(float(group.min()) for group in costs)
    room = budget - least
    if room < 0:
        raise ValueError(f"the cheapest options cost {least:g} together, above {budget:g}")
    # Rounding up may put a choice that fits as many steps too high as there are groups.
    size = _STEPS + len(costs) + 1
    best = np.zeros(size)  # the largest sum of values for each number of steps
    steps = [_in_steps(group - group.min(), room, size) for group in costs]
    chosen = []
    for group_steps, group_values in zip(steps, values, strict=True):
        best, choice = _add_group(best, group_steps, group_values)
        chosen.append(choice)
    for left in range(size - 1, _STEPS, -1):
        picks = _picks(left, steps, chosen)
        spent = sum(float(group[pick]) for group, pick in zip(costs, picks, strict=True))
        if spent <= budget + _ROUNDING * abs(budget):
            return picks
    return _picks(_STEPS, steps, chosen)


def _picks(
    left: int, steps: Sequence[NDArray[np.int64]], chosen: Sequence[NDArray[np.int64]]
) -> list[int]:
    """Return the options behind the best sum of values in `left` steps."""
    picks = []
    for group_steps, choice in zip(reversed(steps), reversed(chosen), strict=True):
        picks.append(int(choice[left]))
        left -= int(group_steps[picks[-1]])
    return picks[::-1]


def _in_steps(extra: Numbers, room: float, size: int) -> NDArray[np.int64]:
    """Return whole numbers of steps, `size` where an option does not fit."""
    if room == 0:
        return np.where(extra > 0, size, 0)
    return np.minimum(np.ceil(extra / room * _STEPS), size).astype(np.int64)


def _add_group(
    best: Numbers, steps: NDArray[np.int64], values: Numbers
) -> tuple[Numbers, NDArray[np.int64]]:
    """Return the sums with one more group, and its option behind each of them."""
    found = np.full(len(best), -np.inf)
    choice = np.zeros(len(best), dtype=np.int64)
    for option, (needed, value) in enumerate(zip(steps, values, strict=True)):
        if needed >= len(best):
            continue
        candidate = best[: len(best) - needed] + value
        is_better = candidate > found[needed:]
        found[needed:][is_better] = candidate[is_better]
        choice[needed:][is_better] = option
    return found, choice
