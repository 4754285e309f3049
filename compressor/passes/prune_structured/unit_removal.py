"""Chooses which heads and neurons go, and takes them out physically.

torch-pruning's dependency graph finds what goes together: a head's rows of query, key and value
with its columns of the output projection, a neuron's row with its column. The graph is traced, so
a model where pruning would touch anything else is found out before it is damaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch_pruning
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.families.layers import Encoder
from compressor.models.families.prunable import UnsupportedArchitecture, require_prunable_heads
from compressor.models.outputs import first_output
from compressor.models.structure import remove_attention, remove_feed_forward, set_num_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scope = Literal["layer", "global"]
# Indices of units by index of the layer, both counted from 0.
Units = Mapping[int, Sequence[int]]


def select_units(
    scores: Sequence[Tensor],
    ratio: float,
    *,
    scope: Scope,
    round_to: int = 1,
    counts: Sequence[int] | None = None,
    may_empty_layers: bool = False,
) -> dict[int, list[int]]:
    """Return the lowest-scored units, so that `ratio` of them all is gone.

    `scores` holds one score for each present unit, layer by layer. `ratio` refers to `counts` units
    a layer (default: the present ones), so that repeated calls reach one goal in steps. With scope
    `layer` each layer loses its share, with `global` scores compete across layers. Each layer keeps
    a multiple of `round_to` units (or all), and the number that goes is the one nearest to the
    ratio; a layer keeps at least one such block unless `may_empty_layers`.

    Raises `StepFailed` when the blocks that must stay are more than the ratio leaves.
    """
    originals = [len(score) for score in scores] if counts is None else list(counts)
    if scope == "global":
        kept = _keep_best(scores, sum(originals), ratio, round_to, may_empty_layers)
    else:
        kept = [
            _keep_best([score], original, ratio, round_to, may_empty_layers)[0]
            for score, original in zip(scores, originals, strict=True)
        ]
    removed = {}
    for index, (score, number) in enumerate(zip(scores, kept, strict=True)):
        worst_first = score.argsort(stable=True)[: len(score) - number]
        if len(worst_first) > 0:
            removed[index] = sorted(worst_first.tolist())
    return removed


def prune_heads(encoder: Encoder, heads: Units) -> None:
    """Remove `heads` from `encoder`, in place.

    A layer that loses all its heads loses its attention. Raises `ValueError` for an index
    that is out of range, and `UnsupportedArchitecture`.
    """
    if not heads:
        return  # such as all of MPNet's, which cannot go
    require_prunable_heads(encoder.module.config)
    layers = encoder.layers
    _check_indices("head", heads, [layer.num_heads for layer in layers])
    whole = {index for index, units in heads.items() if len(units) == layers[index].num_heads}
    graph = DependencyGraph(encoder.module)
    for index, units in heads.items():
        part = layers[index].attention
        if part is None or not units or index in whole:
            continue
        rows = [unit * part.head_dim + row for unit in units for row in range(part.head_dim)]
        graph.remove_outputs(part.query, rows, {part.query, part.key, part.value, part.output})
        set_num_heads(layers[index], part.num_heads - len(units))
    for index in whole:
        remove_attention(layers[index])


def prune_neurons(encoder: Encoder, neurons: Units) -> None:
    """Remove feed-forward `neurons` from `encoder`, in place.

    A layer that loses all its neurons loses its feed-forward network. Raises `ValueError` for an
    index that is out of range, and `UnsupportedArchitecture`.
    """
    layers = encoder.layers
    _check_indices("neuron", neurons, [layer.num_neurons for layer in layers])
    whole = {index for index, units in neurons.items() if len(units) == layers[index].num_neurons}
    graph = DependencyGraph(encoder.module)
    for index, units in neurons.items():
        part = layers[index].feed_forward
        if part is None or not units or index in whole:
            continue
        graph.remove_outputs(part.ffn_in, list(units), {part.ffn_in, part.ffn_out})
    for index in whole:
        remove_feed_forward(layers[index])


class DependencyGraph:
    """torch-pruning's graph of one model, with what it changes beyond pruning put right."""

    def __init__(self, module: PreTrainedModel) -> None:
        self._model_type: str = module.config.model_type
        # The graph is read from autograd, which skips what is frozen. Tables stay as they are: no
        # unit goes from them, and RoFormer's sinusoids, one for all layers, would tie these.
        frozen = [
            parameter
            for child in module.modules()
            if not isinstance(child, nn.Embedding)
            for parameter in child.parameters(recurse=False)
            if not parameter.requires_grad
        ]
        was_training = module.training
        module.eval()
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            # Not verbose: it would warn of parameters outside layers, such as class tokens, which
            # no group that `remove_outputs` accepts can touch.
            self._graph = torch_pruning.DependencyGraph().build_dependency(
                module,
                example_inputs=_example_inputs(module),
                output_transform=first_output,
                verbose=False,
            )
        for parameter in frozen:
            parameter.requires_grad_(False)
        module.train(was_training)

    def remove_outputs(self, linear: nn.Linear, rows: list[int], expected: set[nn.Linear]) -> None:
        """Remove output features and what depends on them, which must be `expected` alone."""
        group = self._graph.get_pruning_group(linear, torch_pruning.prune_linear_out_channels, rows)
        touched = {dependency.target.module for dependency, _ in group}
        with_weights = {part for part in touched if _holds_weights(part)}
        if with_weights != expected or not self._graph.check_pruning_group(group):
            raise UnsupportedArchitecture(
                self._model_type,
                f"removing units of {linear} would change {len(with_weights)} weights that belong "
                f"together, where {len(expected)} linear layers are expected",
            )
        trains = {part: part.weight.requires_grad for part in expected}
        group.prune()
        for part, requires_grad in trains.items():
            # torch-pruning's new parameters always train and keep a gradient that is out of date.
            for parameter in part.parameters():
                parameter.requires_grad_(requires_grad)
                parameter.grad = None


def _example_inputs(module: PreTrainedModel) -> dict[str, Tensor]:
    config = module.config
    if module.main_input_name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.zeros(2, config.num_channels, height, width, dtype=module.dtype)
        return {"pixel_values": pixels.to(module.device)}
    return {"input_ids": torch.zeros(2, 8, dtype=torch.int64, device=module.device)}


def _holds_weights(part: object) -> bool:
    if isinstance(part, nn.Parameter):
        return True
    return isinstance(part, nn.Module) and any(True for _ in part.parameters())


def _keep_best(
    scores: Sequence[Tensor], original: int, ratio: float, round_to: int, may_empty_layers: bool
) -> list[int]:
    """Return how many units each layer keeps: whole blocks, the best mean score first.

    A layer's units are sorted before they are cut into blocks, so its blocks go in order.
    """
    target = original - round(original * ratio)
    kept = [0 if may_empty_layers else min(round_to, len(score)) for score in scores]
    if sum(kept) - target > round_to / 2:
        largest = math.floor(100 * (1 - sum(kept) / original)) / 100
        smaller_blocks = " or a smaller round_to" if round_to > 1 else ""
        raise StepFailed(
            f"ratio {ratio:g} would leave {target} of {original} units, but {sum(kept)} have to "
            f"stay (each layer keeps {round_to} or all it has); use a ratio of at most "
            f"{largest:g}{smaller_blocks}"
        )
    blocks = []
    for layer, score in enumerate(scores):
        rest = score.sort(descending=True).values[kept[layer] :]
        for position, start in enumerate(range(0, len(rest), round_to)):
            block = rest[start : start + round_to]
            blocks.append((-float(block.mean()), position, layer, len(block)))
    for _, _, layer, size in sorted(blocks):
        missing = target - sum(kept)
        if size - missing > missing:
            break
        kept[layer] += size
    return kept


def _check_indices(unit: str, units: Units, counts: Sequence[int]) -> None:
    for index, chosen in units.items():
        if not 0 <= index < len(counts):
            raise ValueError(
                f"layer {index} does not exist; layers are counted from 0 to {len(counts) - 1}"
            )
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(range(counts[index])):
            raise ValueError(
                f"layer {index}: {unit}s to remove must be distinct and from 0 to "
                f"{counts[index] - 1}, got {list(chosen)}"
            )
