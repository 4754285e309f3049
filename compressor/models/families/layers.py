"""The heads, neurons and layers of a live encoder, found where its family says that they sit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressor.models.families.base import EncoderParts
from compressor.models.families.prunable import UnsupportedArchitecture, parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ConstantOutput(nn.Module):
    """What stays of a sub-layer that lost all its units: the bias of its output projection.

    With it, removing every unit computes the same as setting every unit to zero.
    """

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        bias = torch.zeros(output.out_features) if output.bias is None else output.bias
        self.bias = nn.Parameter(bias.detach().clone().to(output.weight))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the bias for every token; `hidden_states` gives the shape only."""
        return self.bias.expand_as(hidden_states)


class HeadlessAttention(nn.Module):
    """Stands where an attention module without heads stood; it has no attention map.

    Its one child, if any, is the output projection that the attention module held.
    """

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        """Return what the projection gives, or the input where the projection lies outside."""
        for child in self.children():
            hidden_states = child(hidden_states)
        return hidden_states, None


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one layer; rows of query, key and value and columns of output are heads."""

    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    num_heads: int
    head_dim: int


@dataclass(frozen=True, eq=False)
class FeedForward:
    """The feed-forward network of one layer; rows of ffn_in and columns of ffn_out are neurons."""

    ffn_in: nn.Linear
    ffn_out: nn.Linear

    @property
    def num_neurons(self) -> int:
        """Return the inner width."""
        return self.ffn_in.out_features


@dataclass(frozen=True, eq=False)
class EncoderLayer:
    """One layer of a live module; a sub-layer that lost all its units is None."""

    index: int
    module: nn.Module
    parts: EncoderParts
    attention: Attention | None
    feed_forward: FeedForward | None

    @property
    def num_heads(self) -> int:
        """Return how many attention heads are left."""
        return 0 if self.attention is None else self.attention.num_heads

    @property
    def num_neurons(self) -> int:
        """Return how many feed-forward neurons are left."""
        return 0 if self.feed_forward is None else self.feed_forward.num_neurons


@dataclass(frozen=True, eq=False)
class Encoder:
    """The encoder of a live transformers model, found once for everything that works on it.

    It shows the model as it is, so what is removed is gone from `layers` too.
    """

    module: PreTrainedModel  # the whole model, with its head
    parts: EncoderParts
    layer_list: nn.ModuleList  # that owns the layers

    @property
    def layers(self) -> list[EncoderLayer]:
        """Return the layers that are there, first to last, with the parts that are left."""
        return [self._layer(index, layer) for index, layer in enumerate(self.layer_list)]

    def _layer(self, index: int, layer: nn.Module) -> EncoderLayer:
        find = _Finder(layer, self.parts, self.module.config.model_type)
        return EncoderLayer(index, layer, self.parts, find.attention(), find.feed_forward())


def find_encoder(module: PreTrainedModel) -> Encoder:
    """Return the encoder of a transformers model, pruned or not.

    Raises `UnsupportedArchitecture` when the model type is not in the table, or the model is not
    built as its type usually is (a decoder, a gated feed-forward, replaced linear layers, layers
    that share weights).
    """
    parts, model_type = parts_of(module.config), module.config.model_type
    layer_list = module.base_model.get_submodule(parts.layers)
    if not isinstance(layer_list, nn.ModuleList):
        raise UnsupportedArchitecture(model_type, f"'{parts.layers}' is not a list of layers")
    encoder = Encoder(module, parts, layer_list)
    _require_own_weights(encoder.layers, model_type)
    return encoder


def encoder_layers(module: PreTrainedModel) -> list[EncoderLayer]:
    """Return the layers of `find_encoder`, where no more than they is needed."""
    return find_encoder(module).layers


def _require_own_weights(layers: list[EncoderLayer], model_type: str) -> None:
    owners: dict[int, int] = {}
    for layer in layers:
        for weight in layer.module.parameters():
            owner = owners.setdefault(id(weight), layer.index)
            if owner != layer.index:
                raise UnsupportedArchitecture(
                    model_type,
                    f"layers {owner} and {layer.index} share a weight, so a unit of one cannot go "
                    f"without the other's",
                )


@dataclass(frozen=True)
class _Finder:
    """Finds the parts of one layer by their names."""

    layer: nn.Module
    parts: EncoderParts
    model_type: str

    def attention(self) -> Attention | None:
        parts = self.parts.attention
        if isinstance(self.layer.get_submodule(parts.output), ConstantOutput):
            return None
        module = self.layer.get_submodule(parts.module)
        found = Attention(
            module=module,
            query=self._linear(parts.query),
            key=self._linear(parts.key),
            value=self._linear(parts.value),
            output=self._linear(parts.output),
            num_heads=int(getattr(module, parts.num_heads)),
            head_dim=int(getattr(module, parts.head_dim)),
        )
        width = found.num_heads * found.head_dim
        for linear in (found.query, found.key, found.value):
            if linear.out_features != width:
                raise UnsupportedArchitecture(
                    self.model_type,
                    f"query, key and value must each be {found.num_heads} heads of "
                    f"{found.head_dim}, but one is {linear.out_features} wide",
                )
        return found

    def feed_forward(self) -> FeedForward | None:
        parts = self.parts.feed_forward
        if isinstance(self.layer.get_submodule(parts.ffn_out), ConstantOutput):
            return None
        return FeedForward(self._linear(parts.ffn_in), self._linear(parts.ffn_out))

    def _linear(self, path: str) -> nn.Linear:
        found = self.layer.get_submodule(path)
        if not isinstance(found, nn.Linear):
            raise UnsupportedArchitecture(
                self.model_type, f"'{path}' must be a linear layer, found {type(found).__name__}"
            )
        return found
