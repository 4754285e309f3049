"""What each pass could take off a checkpoint at most, as the pass itself says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from torch import nn

from compressor.models.components import component_of, layer_of
from compressor.models.families.layers import encoder_layers
from compressor.models.families.prunable import UnsupportedArchitecture, why_heads_stay
from compressor.models.scripts import scripts_of
from compressor.models.structure import input_embeddings
from compressor.models.torch_model import TorchModel
from compressor.passes import PASSES
from compressor.passes.saving import ModelParts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOAT_BYTES = 4
_MOST_SCRIPTS, _LEAST_SHARE = 4, 0.01  # that are named of a vocabulary
_IN_LAYERS = ("attention", "feed_forward")
_SMALLEST_INT8 = 2048  # elements; the passes that store integers leave smaller matrices alone


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


def most_savings(model: TorchModel, encoder_flops_share: float) -> tuple[PassSaving, ...]:
    """Return what each known pass could save at most on `model`, in alphabetical order."""
    parts = _parts_of(model, encoder_flops_share)
    found = ((kind, entry.settings.most_saved(parts)) for kind, entry in PASSES.items())
    return tuple(
        PassSaving(kind, most.supported, most.bytes_saved, most.flops_share, most.reason)
        for kind, most in found
        if most is not None
    )


def _parts_of(model: TorchModel, encoder_flops_share: float) -> ModelParts:
    module = model.module
    sizes = {name: _FLOAT_BYTES * value.numel() for name, value in module.named_parameters()}
    in_layers = {name: size for name, size in sizes.items() if layer_of(name) is not None}
    if not in_layers:  # layers that share one set of weights have no numbers
        in_layers = {name: size for name, size in sizes.items() if component_of(name) in _IN_LAYERS}
    table = input_embeddings(module)
    backend = getattr(model.preprocessor, "backend_tokenizer", None)
    stored = {
        id(part.weight): (isinstance(part, nn.Embedding), part.weight.numel())
        for part in module.modules()
        if isinstance(part, nn.Linear | nn.Embedding) and part.weight.numel() >= _SMALLEST_INT8
    }
    filters = {
        id(part.weight): part.weight.numel()
        for part in module.modules()
        if isinstance(part, nn.Conv1d | nn.Conv2d) and part.weight.numel() >= _SMALLEST_INT8
    }
    return ModelParts(
        task=model.task,
        total_bytes=sum(sizes.values()),
        layer_bytes=sum(in_layers.values()),
        attention_bytes=_bytes_of("attention", in_layers),
        feed_forward_bytes=_bytes_of("feed_forward", in_layers),
        word_table_bytes=_FLOAT_BYTES * table.weight.numel()
        if isinstance(table, nn.Embedding)
        else None,
        tokenizer=None if backend is None else type(backend.model).__name__,
        scripts=() if backend is None else _scripts(backend),
        layers_flops_share=encoder_flops_share,
        feed_forward_flops_share=encoder_flops_share * _feed_forward_share(module),
        matrices=tuple(size for is_table, size in stored.values() if not is_table),
        tables=tuple(size for is_table, size in stored.values() if is_table),
        filters=tuple(filters.values()),
        no_layers=_why_not_prunable(module),
        no_prunable_heads=why_heads_stay(module.config),
    )


def _scripts(backend: Tokenizer) -> tuple[tuple[str, float], ...]:
    """Return the scripts that most pieces are written in with their shares, and what is left."""
    pieces = list(backend.get_vocab())
    counts = scripts_of(
        backend.decoder.decode([piece]) if backend.decoder else piece for piece in pieces
    )
    shares = [(name, count / max(1, len(pieces))) for name, count in counts.most_common()]
    shown = [(name, share) for name, share in shares if share >= _LEAST_SHARE][:_MOST_SCRIPTS]
    rest = 1 - sum(share for _, share in shown)
    return (*shown, ("others", rest)) if rest >= _LEAST_SHARE else tuple(shown)


def _bytes_of(component: str, sizes: dict[str, int]) -> int:
    return sum(size for name, size in sizes.items() if component_of(name) == component)


def _why_not_prunable(module: PreTrainedModel) -> str | None:
    try:
        encoder_layers(module)
    except UnsupportedArchitecture as error:
        return error.reason
    return None


def _feed_forward_share(module: nn.Module) -> float:
    """Return the feed-forward networks' part of the encoder's matmuls with weights."""
    linears = {
        name: part.weight.numel()
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and layer_of(f"{name}.weight") is not None
    }
    inner = sum(
        size for name, size in linears.items() if component_of(f"{name}.weight") == "feed_forward"
    )
    return inner / max(1, sum(linears.values()))
