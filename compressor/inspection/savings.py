"""The most that each pass could take off a checkpoint: what is there for it to work on.

An upper bound, not a promise: accuracy decides how much of it can really go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from compressor.models.components import component_of, layer_of
from compressor.models.families.layers import (
    UnsupportedArchitecture,
    encoder_layers,
    require_prunable_heads,
)
from compressor.models.torch_model import TorchModel
from compressor.models.width import width_axes
from compressor.passes import PASSES
from compressor.passes.prune_width.settings import PruneWidth

_FLOAT_BYTES = 4
_SMALLEST_INT8 = 2048  # elements; `quantize_dynamic` leaves smaller matrices alone


@dataclass(frozen=True)
class PassSaving:
    """What a pass could save at most; `reason` says why it cannot, or what the figure leaves out.

    `bytes_saved` is null when the pass changes no sizes by itself.
    """

    kind: str
    supported: bool
    bytes_saved: int | None
    flops_share: float | None  # of the whole model's FLOPs
    reason: str


@dataclass(frozen=True)
class _Subject:
    model: TorchModel
    encoder_flops_share: float

    def bytes_where(self, choose: Callable[[str], bool]) -> int:
        """Return the float32 bytes of the parameters whose names are chosen."""
        named = self.model.module.named_parameters()
        return sum(_FLOAT_BYTES * value.numel() for name, value in named if choose(name))


def most_savings(model: TorchModel, encoder_flops_share: float) -> tuple[PassSaving, ...]:
    """Return what each known pass could save at most on `model`, in alphabetical order."""
    subject = _Subject(model, encoder_flops_share)
    return tuple(_ESTIMATES[kind](kind, subject) for kind in PASSES if kind in _ESTIMATES)


def _finetune(kind: str, subject: _Subject) -> PassSaving:
    if not subject.model.task.names_labels:
        return PassSaving(
            kind, False, None, None, "trains on labels of classes; distill needs none"
        )
    return PassSaving(kind, True, None, None, "recovers accuracy; the size stays")


def _distill(kind: str, subject: _Subject) -> PassSaving:
    try:
        encoder_layers(subject.model.module)
    except UnsupportedArchitecture as error:
        return PassSaving(kind, True, None, None, f"no smaller student: {error.reason}")
    layers = subject.bytes_where(lambda name: layer_of(name) is not None)
    reason = "with a student of fewer layers; without one it recovers accuracy alone"
    return PassSaving(kind, True, layers, subject.encoder_flops_share, reason)


def _prune_structured(kind: str, subject: _Subject) -> PassSaving:
    try:
        encoder_layers(subject.model.module)
    except UnsupportedArchitecture as error:
        return PassSaving(kind, False, None, None, error.reason)
    neurons_only, reason = False, "all heads and neurons"
    try:
        require_prunable_heads(subject.model.module)
    except UnsupportedArchitecture as error:
        neurons_only, reason = True, f"neurons only: {error.reason}"
    chosen = ("feed_forward",) if neurons_only else ("attention", "feed_forward")
    found = subject.bytes_where(
        lambda name: layer_of(name) is not None and component_of(name) in chosen
    )
    share = subject.encoder_flops_share
    if neurons_only:
        share *= _feed_forward_share(subject.model.module)
    return PassSaving(kind, True, found, share, reason)


def _feed_forward_share(module: Any) -> float:
    """Return the feed-forward networks' part of the encoder's products with weights."""
    linears = {
        name: part.weight.numel()
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and layer_of(f"{name}.weight") is not None
    }
    inner = sum(
        size for name, size in linears.items() if component_of(f"{name}.weight") == "feed_forward"
    )
    return inner / max(1, sum(linears.values()))


def _prune_width(kind: str, subject: _Subject) -> PassSaving:
    try:
        axes = width_axes(subject.model.module)
    except UnsupportedArchitecture as error:
        return PassSaving(kind, False, None, None, error.reason)
    for _, why in PruneWidth.model_validate({"ratio": 0.5}).unfit_for(subject.model.task):
        return PassSaving(kind, False, None, None, why)
    along = {axis.parameter for axis in axes}
    found = subject.bytes_where(lambda name: name in along)
    reason = "all that is as wide as the residual stream; one feature has to stay"
    return PassSaving(kind, True, found, subject.encoder_flops_share, reason)


def _prune_magnitude(kind: str, _: _Subject) -> PassSaving:
    return PassSaving(kind, True, 0, 0.0, "zeros show only after compression, such as gzip")


def _quantize(kind: str, subject: _Subject) -> PassSaving:
    """Count matrices in 8 bits and tables in 4, of the 32 that they have."""
    saved = sum(
        weight.numel() * (7 if is_table else 6) // 2
        for weight, is_table in _int8_weights(subject.model.module)
    )
    reason = "int8 weights and int4 tables, on the CPU; scales aside"
    return PassSaving(kind, True, saved, None, reason)


def _in_blocks(kind: str, subject: _Subject) -> PassSaving:
    saved = sum(weight.numel() * 7 // 2 for weight, _ in _int8_weights(subject.model.module))
    return PassSaving(kind, True, saved, None, "weights and tables of 4 bits; scales aside")


def _for_tensorrt(kind: str, subject: _Subject) -> PassSaving:
    found = _int8_weights(subject.model.module)
    saved = sum(3 * weight.numel() for weight, is_table in found if not is_table)
    return PassSaving(kind, True, saved, None, "int8 matrices, on TensorRT; tables stay float")


def _half(kind: str, subject: _Subject) -> PassSaving:
    saved = subject.bytes_where(lambda _: True) // 2
    return PassSaving(kind, True, saved, None, "float16 weights, on CUDA and TensorRT")


def _trim_vocabulary(kind: str, subject: _Subject) -> PassSaving:
    table = subject.model.module.get_input_embeddings()
    backend = getattr(subject.model.preprocessor, "backend_tokenizer", None)
    if not isinstance(table, nn.Embedding) or backend is None:
        return PassSaving(kind, False, None, None, "there is no table of words")
    found = type(backend.model).__name__
    if found != "WordPiece":
        return PassSaving(kind, False, None, None, f"the tokenizer is {found}, not WordPiece")
    saved = _FLOAT_BYTES * table.weight.numel()
    return PassSaving(kind, True, saved, 0.0, "pieces that the domain does not use, at most all")


def _int8_weights(module: Any) -> Iterator[tuple[Any, bool]]:
    """Yield each weight that passes store as integers, once, and whether it is a table."""
    found = {
        id(part.weight): (part.weight, isinstance(part, nn.Embedding))
        for part in module.modules()
        if isinstance(part, nn.Linear | nn.Embedding) and part.weight.numel() >= _SMALLEST_INT8
    }
    yield from found.values()


_ESTIMATES: dict[str, Callable[[str, _Subject], PassSaving]] = {
    "convert_fp16": _half,
    "distill": _distill,
    "finetune": _finetune,
    "prune_magnitude": _prune_magnitude,
    "prune_structured": _prune_structured,
    "prune_width": _prune_width,
    "quantize_auto": _quantize,
    "quantize_aware_train": _quantize,
    "quantize_dynamic": _quantize,
    "quantize_static": _quantize,
    "quantize_tensorrt": _for_tensorrt,
    "quantize_weights": _in_blocks,
    "trim_vocabulary": _trim_vocabulary,
}
