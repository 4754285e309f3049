"""Chooses which heads and neurons go, and takes them out physically.

What goes together is known of each family: a head's rows of query, key and value with its columns
of the output projection, a neuron's row with its column. Whether that is all is checked each time:
without the units a model has to compute what it computes with them at zero. torch-pruning's
dependency graph, which finds what goes together by tracing, does not see through weights that are
packed and unbound (ModernBERT) or meet relative positions (DeBERTa), and takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.example_sound import OF_SOUND, example_sound
from compressor.models.families.layers import Attention, Encoder, FeedForward
from compressor.models.families.prunable import UnsupportedArchitecture, require_prunable_heads
from compressor.models.outputs import first_output
from compressor.models.structure import remove_attention, remove_feed_forward, set_num_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of the largest output, by which the outputs of two equal computations may differ.
_TOLERANCE = 1e-2

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
    if whole and encoder.parts.repeated is not None:
        raise UnsupportedArchitecture(
            encoder.module.config.model_type,
            "all heads of all layers would go",
            "all heads of all layers would go, which share their weights; use a smaller head_ratio",
        )
    with _require_same_outputs(encoder, {it.index: it.attention for it in layers}, heads):
        for index, units in heads.items():
            part = layers[index].attention
            if part is None or not units or index in whole:
                continue
            kept = _others(units, part.num_heads)
            part.keep(kept)
            set_num_heads(layers[index], len(kept))
        for index in whole:
            remove_attention(layers[index])


def prune_neurons(encoder: Encoder, neurons: Units) -> None:
    """Remove feed-forward `neurons` from `encoder`, in place.

    A layer that loses all its neurons loses its feed-forward network. Raises `ValueError` for an
    index that is out of range, and `UnsupportedArchitecture`.
    """
    if not neurons:
        return
    layers = encoder.layers
    _check_indices("neuron", neurons, [layer.num_neurons for layer in layers])
    whole = {index for index, units in neurons.items() if len(units) == layers[index].num_neurons}
    with _require_same_outputs(encoder, {it.index: it.feed_forward for it in layers}, neurons):
        for index, units in neurons.items():
            part = layers[index].feed_forward
            if part is not None and units and index not in whole:
                part.keep(_others(units, part.num_neurons))
        for index in whole:
            remove_feed_forward(layers[index])


def _others(units: Sequence[int], count: int) -> list[int]:
    gone = set(units)
    return [unit for unit in range(count) if unit not in gone]


@contextmanager
def _require_same_outputs(
    encoder: Encoder, parts: Mapping[int, Attention | FeedForward | None], units: Units
) -> Iterator[None]:
    """Raise `UnsupportedArchitecture` unless a block leaves what a model computes without `units`.

    Before the block the inputs of the output projections are multiplied by 0 where those units
    are, so whatever else hangs together with them in this model is found out.
    """
    module = encoder.module
    hooks = []
    for index, chosen in units.items():
        if (part := parts[index]) is not None:
            keep = _multiply_by(_mask_without(part, chosen))
            hooks.append(_output_of(part).register_forward_pre_hook(keep))
    try:
        expected = _outputs(module)
    finally:
        for hook in hooks:
            hook.remove()
    yield
    try:
        found = _outputs(module)
    except (RuntimeError, IndexError) as error:
        raise UnsupportedArchitecture(
            module.config.model_type, f"it does not run without units that were removed ({error})"
        ) from error
    largest, limit = float((found - expected).abs().max()), _TOLERANCE * float(expected.abs().max())
    if expected.isfinite().all() and not largest <= limit:
        raise UnsupportedArchitecture(
            module.config.model_type,
            f"without units that were removed it gives other outputs than with these units at "
            f"zero: they differ by {largest:.2g}, more than {limit:.2g}",
        )


def _mask_without(part: Attention | FeedForward, units: Sequence[int]) -> Tensor:
    """Return 0 for what `units` give to the output projection, else 1; `(in_features,)`."""
    weight = _output_of(part).weight
    count = part.num_heads if isinstance(part, Attention) else part.num_neurons
    mask = torch.ones(weight.shape[1])
    mask.view(count, -1)[list(units)] = 0
    return mask.to(weight)


def _output_of(part: Attention | FeedForward) -> nn.Linear:
    return part.output if isinstance(part, Attention) else part.ffn_out


def _multiply_by(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda _, inputs: (inputs[0] * mask,)


@torch.no_grad()
def _outputs(module: PreTrainedModel) -> Tensor:
    """Return the first output for two made-up examples, in evaluation mode, float64."""
    was_training = module.training
    module.eval()
    try:
        return first_output(module(**_example_inputs(module))).double()
    finally:
        module.train(was_training)


def _example_inputs(module: PreTrainedModel) -> dict[str, Tensor]:
    config = module.config
    if module.main_input_name in OF_SOUND:
        return example_sound(module, 2)
    if module.main_input_name == "pixel_values":
        config = getattr(config, "vision_config", config)  # of a pair of towers
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (2, config.num_channels, height, width)
        pixels = torch.linspace(-1, 1, math.prod(shape), dtype=module.dtype).view(shape)
        return {"pixel_values": pixels.to(module.device)}
    ids = torch.arange(1, 17, device=module.device).view(2, 8) % int(config.vocab_size)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


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
