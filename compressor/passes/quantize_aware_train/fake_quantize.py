"""Simulates, in PyTorch and with gradients, what an int8 file of this package computes.

Weights have one scale for each output row, which is learned (LSQ), within what the pair rule of
`affine.py` allows, or four bits in blocks whose scales stay, and begin as they are or where GPTQ
rounds them; activations have the scales of
`quantized_activations.py`, one for each token or one that observation fixed; embedding tables are
rounded once, row by row to 8 bits or in blocks to 4. Gradients are those of the straight-through
estimator. Afterwards the module is an ordinary one whose weights are multiples of their scales, and
the pass that writes the file finds those scales again (`affine.column_scales`, `block_weights.py`),
so the integers that were trained are the integers of the file, and no record beside the weights has
to travel with them. Fixed scales are not stored either: the file's calibration observes the trained
weights on the same rows, as here. Where a classifier reads one token alone, the fused file computes
no other in its last layer, so there it observes that token, and here all: scales of that layer's
query, attention output and feed-forward differ by some percent.

Ref: Jacob et al. 2018, arXiv:1712.05877; Esser et al. 2020, arXiv:1902.08153 (LSQ); Bhalgat et al.
2020, arXiv:2004.09576 (LSQ+: initial steps of least squared error).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.errors import StepFailed
from compressor.models.families.prunable import not_simulated
from compressor.onnx_graph.affine import PAIR_MAX, WEIGHT_MAX, quantize_rows
from compressor.onnx_graph.block_weights import quantize_blocks
from compressor.onnx_graph.embedding_tables import BITS, reasons_against
from compressor.onnx_graph.gptq import ActivationMoments, round_blocks
from compressor.onnx_graph.observers import ActivationStatistics
from compressor.onnx_graph.quantizable_weights import QuantizableWeight
from compressor.onnx_graph.quantized_activations import SYMMETRIC, ScaleAndZeroPoint, TokenScale
from compressor.passes.quantize_aware_train.activation_probe import probe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Adam moves every parameter by about the learning rate a step. A step size is trained as the
# logarithm of a factor, times this, so that it moves by about 10 x 5e-5 of itself.
_GAIN = 10.0
# What a first step is chosen from, as fractions of the step that clips nothing.
_FRACTIONS = tuple(fraction / 40 for fraction in range(40, 19, -1))


def project_pairs(integers: Tensor) -> Tensor:
    """Return the nearest values that no 16-bit sum of two products can overflow with.

    `integers` has shape `(out_features, in_features)`; neighbours 2i and 2i + 1 are a pair. Values
    are clipped to -127..127, and a pair of equal sign that sums to more than 128 is brought to 128
    by taking the same from both (the odd one from the first), the shortest way in squared error.
    """
    clipped = integers.clamp(-WEIGHT_MAX, WEIGHT_MAX)
    width = clipped.shape[1]
    pairs = _pairs(clipped)
    first, second = pairs.unbind(dim=2)  # (out_features, ceil(in_features / 2)) each
    excess = ((first + second).abs() - PAIR_MAX).clamp(min=0)  # opposite signs stay below 128
    less = torch.stack([(excess / 2).ceil(), (excess / 2).floor()], dim=2)
    safe = (pairs - pairs.sign() * less).reshape(len(pairs), -1)
    return safe[:, :width]


def fake_quantize_weight(weight: Tensor, steps: Tensor) -> Tensor:
    """Round `weight`, shape `(out_features, in_features)`, to `steps` times pair-safe integers.

    `steps` has shape `(out_features, 1)`. Gradients: those of LSQ. A weight that was rounded passes
    its gradient on, one that was clipped does not; a step gets `integer - weight / step` of the
    former and `integer` of the latter.

    Ref: Esser et al. 2020, arXiv:1902.08153, eq. 3.
    """
    relative = weight / steps
    integers = project_pairs(relative.detach().round())
    is_rounded = (integers - relative.detach()).abs() <= 0.5 + 1e-6
    passed = relative + (integers - relative).detach()
    return steps * torch.where(is_rounded, passed, integers)


def fake_quantize_tokens(values: Tensor, token_scale: TokenScale) -> Tensor:
    """Round activations, shape `(..., features)`, as `quantize_tokens` does, each with its range.

    Nothing is clipped but what a GELU cannot give, so gradients pass straight through.
    """
    found = values.detach()
    magnitudes = found.abs() if token_scale.is_signed else found
    ranges = magnitudes.amax(dim=-1, keepdim=True).clamp(min=token_scale.smallest_range)  # (..., 1)
    step = torch.tensor(1 / token_scale.levels, dtype=torch.float32, device=values.device)
    integers = (found / ranges / step).round() + token_scale.zero_point
    rounded = (integers.clamp(0, 255) - token_scale.zero_point) * step * ranges
    return values + (rounded - found)


def fake_quantize_static(values: Tensor, static: ScaleAndZeroPoint) -> Tensor:
    """Round activations of any shape with a scale fixed beforehand, as `QuantizeLinear` does.

    What the scale does not reach is clipped and gets no gradient.
    """
    low, high = (static.scale * (end - static.zero_point) for end in (0, 255))
    clipped = values.clamp(low, high)
    integers = (
        (values.detach() / static.scale).round().clamp(-static.zero_point, 255 - static.zero_point)
    )
    return clipped + (integers * static.scale - clipped.detach())


class WeightQuantizer(nn.Module):
    """Rounds a weight to multiples of learned steps; a parametrization of `nn.Linear.weight`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.first_steps: Tensor
        self.register_buffer("first_steps", first_steps(weight.detach()), persistent=False)
        self.log_factor = nn.Parameter(torch.zeros_like(self.first_steps))
        # LSQ eq. 4, so that steps do not drown the weights when gradients are clipped by norm.
        self._gradient_scale = 1 / math.sqrt(weight.shape[1] * WEIGHT_MAX)

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight`, rounded."""
        return fake_quantize_weight(weight, self.steps())

    def steps(self) -> Tensor:
        """Return the steps, shape `(out_features, 1)`."""
        steps = self.first_steps * torch.exp(_GAIN * self.log_factor)
        scaled = steps * self._gradient_scale
        return scaled + (steps - scaled).detach()

    def freeze(self) -> None:
        """Leave the steps as they are from now on."""
        self.log_factor.requires_grad_(False)


class BlockQuantizer(nn.Module):
    """Rounds a weight to four bits in blocks of a row; the steps are those of its first values.

    A parametrization of `nn.Linear.weight`. What the int8 columns of the file round once more, by
    half of their step at most (`narrow_columns.py`), is not simulated.
    """

    def __init__(self, weight: Tensor, block_size: int) -> None:
        super().__init__()
        values = weight.detach().cpu().numpy()
        blocks = quantize_blocks(values, bits=BITS, block_size=block_size, float16_scales=False)
        steps = torch.from_numpy(blocks.scales).repeat_interleave(block_size, dim=1)
        self.steps: Tensor
        self.register_buffer("steps", steps[:, : weight.shape[1]].to(weight), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight`, rounded; what is clipped passes no gradient on."""
        relative = weight.detach() / self.steps
        integers = relative.round().clamp(-(1 << (BITS - 1)), (1 << (BITS - 1)) - 1)
        is_rounded = (integers - relative).abs() <= 0.5 + 1e-6
        rounded = integers * self.steps
        return torch.where(is_rounded, weight + (rounded - weight.detach()), rounded)

    def freeze(self) -> None:
        """Do nothing: the steps stay from the beginning."""


def first_steps(weight: Tensor) -> Tensor:
    """Return the step of each row, shape `(out_features, 1)`, with the least squared error.

    Tried are fractions down to a half of the step that clips nothing: a few clipped weights buy
    finer steps for all others. Rows of zeros get step 1. Raises `StepFailed` when a weight is not
    finite.
    """
    if not weight.isfinite().all():
        raise StepFailed("holds NaN or infinity, which no integer can stand for")
    pairs = _pairs(weight)
    largest = torch.maximum(pairs.abs().amax(dim=(1, 2)), pairs.sum(dim=2).abs().amax(dim=1))
    widest = torch.where(largest == 0, WEIGHT_MAX, largest)[:, None] / WEIGHT_MAX
    best, least = widest, torch.full_like(widest, torch.inf)
    for fraction in _FRACTIONS:
        steps = fraction * widest
        error = (fake_quantize_weight(weight, steps) - weight).square().sum(dim=1, keepdim=True)
        best, least = torch.where(error < least, steps, best), torch.minimum(error, least)
    return best


def _pairs(values: Tensor) -> Tensor:
    # (out_features, in_features) -> (out_features, ceil(in_features / 2), 2)
    padded = nn.functional.pad(values, (0, values.shape[1] % 2))
    return padded.reshape(len(padded), -1, 2)


class InputQuantizer:
    """Rounds what goes into a linear layer: token by token, or with the scale that `fix` gives it.

    Called before the layer. While it watches, it only remembers what goes in.
    """

    def __init__(self, scale: TokenScale) -> None:
        self.scale: TokenScale | ScaleAndZeroPoint = scale
        self._watched: ActivationStatistics | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the layer's inputs, the first of them rounded."""
        values, *others = inputs
        if self._watched is not None:
            self._watched.update(values.detach().cpu().numpy())
            return inputs
        if isinstance(self.scale, ScaleAndZeroPoint):
            return (fake_quantize_static(values, self.scale), *others)
        return (fake_quantize_tokens(values, self.scale), *others)

    def watch(self) -> None:
        """Round nothing until `fix`."""
        self._watched = ActivationStatistics()

    def fix(self, choose: Callable[[ActivationStatistics], ScaleAndZeroPoint]) -> None:
        """Round from now on with what `choose` makes of what was seen since `watch`."""
        assert self._watched is not None, "watch comes first"
        self.scale, self._watched = choose(self._watched), None


@dataclass(frozen=True)
class SimulatedInt8:
    """What rounds the weights and the inputs of a module's linear layers, by name."""

    weights: tuple[WeightQuantizer | BlockQuantizer, ...]
    inputs: Mapping[str, InputQuantizer]


@contextmanager
def simulated_int8(
    module: PreTrainedModel,
    *,
    min_elements: int,
    rounds_tables: bool = True,
    int4_block: int | None = None,
    matrix_block: int | None = None,
    moments: Mapping[str, ActivationMoments] | None = None,
) -> Iterator[SimulatedInt8]:
    """Let a transformers module compute as its int8 file will, and keep the weights afterwards.

    Every linear layer of at least `min_elements` weights is simulated; with `rounds_tables`,
    embedding tables of that size are rounded in place, because a table is only looked up: to int8,
    and with `int4_block` those that are worth it to int4 in blocks of so many. With `matrix_block`,
    weights of linear layers are rounded to int4 in blocks of so many of a row; where `moments` tell
    of a layer's inputs, by its name, they begin where GPTQ rounds them. Inputs are rounded token by
    token until they are given other scales. When the block ends, weights are multiples of their
    scales and everything else is as it was.

    Raises `StepFailed` when a weight is not finite; ask `check_simulation` first.
    """
    layers = _layers(module, min_elements)
    if rounds_tables:
        _round_tables(module, min_elements, int4_block)
    weights, inputs, hooks = [], {}, []
    try:
        for name, layer in layers.items():
            weights.append(_attach(name, layer.linear, matrix_block, (moments or {}).get(name)))
            inputs[name] = InputQuantizer(layer.scale)
            hooks.append(layer.linear.register_forward_pre_hook(inputs[name]))
        yield SimulatedInt8(tuple(weights), inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers.values():
            if parametrize.is_parametrized(layer.linear, "weight"):
                parametrize.remove_parametrizations(layer.linear, "weight")
                # Its weight comes last now; parameters keep the order that optimizers know them in.
                layer.linear.register_parameter("bias", layer.linear._parameters.pop("bias"))


@dataclass(frozen=True)
class _Layer:
    """A linear layer to simulate, and the scale of what goes into it."""

    linear: nn.Linear
    scale: TokenScale


def check_simulation(module: PreTrainedModel, *, min_elements: int, fixed_scales: bool) -> None:
    """Raise `StepFailed` when the int8 file of a transformers module cannot be simulated.

    `fixed_scales` says that activations have one scale for each layer.
    """
    if (refusal := not_simulated(module.config)) is not None:
        raise StepFailed(refusal)
    found = probe(module)
    linears = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.weight.numel() >= min_elements
    }
    shared = [name for name, part in linears.items() if found.calls[part] > 1]
    if fixed_scales and shared:
        raise StepFailed(
            f"activations: static has one scale for each layer, and '{shared[0]}' stands in "
            f"several layers, whose scales differ in the file; use per_token"
        )


def _layers(module: PreTrainedModel, min_elements: int) -> dict[str, _Layer]:
    scales = probe(module).scales
    return {
        name: _Layer(part, scales.get(part, SYMMETRIC))
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.weight.numel() >= min_elements
    }


def _attach(
    name: str,
    linear: nn.Linear,
    matrix_block: int | None,
    moments: ActivationMoments | None,
) -> WeightQuantizer | BlockQuantizer:
    quantizer: WeightQuantizer | BlockQuantizer
    try:
        if matrix_block is None:
            quantizer = WeightQuantizer(linear.weight)
        else:
            quantizer = BlockQuantizer(linear.weight, matrix_block)
            if moments is not None:
                _round_by_outputs(linear.weight, moments, matrix_block)
    except StepFailed as error:
        raise StepFailed(f"weight {name}.weight {error}") from error
    parametrize.register_parametrization(linear, "weight", quantizer)
    return quantizer


@torch.no_grad()
def _round_by_outputs(weight: Tensor, moments: ActivationMoments, block_size: int) -> None:
    """Round a weight to multiples of the steps that `BlockQuantizer` has for it, by GPTQ."""
    columns = np.ascontiguousarray(weight.detach().cpu().numpy().T)
    blocks = round_blocks(columns, moments.gram, bits=BITS, block_size=block_size)
    weight.copy_(torch.from_numpy(blocks.restored()))


@torch.no_grad()
def _round_tables(module: nn.Module, min_elements: int, int4_block: int | None) -> None:
    found = {
        f"{name}.weight": part
        for name, part in module.named_modules()
        if isinstance(part, nn.Embedding) and part.weight.numel() >= min_elements
    }
    weights = [
        QuantizableWeight(name, "table", tuple(part.weight.shape), (), None)
        for name, part in found.items()
    ]
    against = reasons_against(weights, None)
    for name, table in found.items():
        values = table.weight.detach().cpu().numpy()
        try:
            if int4_block is None or name in against:
                integers, scales = quantize_rows(values)
                rounded = integers * scales[:, None]
            else:
                rounded = quantize_blocks(values, bits=BITS, block_size=int4_block).restored()
        except StepFailed as error:
            raise StepFailed(f"weight {name} {error}") from error
        table.weight.copy_(torch.from_numpy(rounded))
