"""Where attention heads, feed-forward neurons and layers sit in each encoder architecture.

The table below is all that differs between architectures; whatever removes or counts units reads it
through `encoder_layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.prunable import READ, refusal, why_not_prunable


class UnsupportedArchitecture(StepFailed):
    """Heads, neurons or layers of this model cannot be removed; `reason` says why."""

    def __init__(self, model_type: str, reason: str) -> None:
        self.model_type = model_type
        self.reason = reason
        super().__init__(refusal(model_type, reason))


@dataclass(frozen=True)
class Naming:
    """What one family of architectures calls its parts."""

    layers: str  # the list of layers, as a path from the base model
    # Paths from a layer:
    attention: str
    query: str
    key: str
    value: str
    output: str
    ffn_in: str
    activation: str
    ffn_out: str
    # Attributes of the attention module:
    num_heads: str
    head_dim: str
    width: str | None  # the product of the two, where the module keeps it
    # Whether a sub-layer's norm comes first and its sum with the residual is what goes on;
    # elsewhere the sum is normalised afterwards.
    norms_first: bool
    # Of the configuration:
    ffn_neurons: Callable[[Any], int]  # reads the width of every layer
    ffn_setting: str  # what that width is called
    has_head_dim: bool  # whether heads may be other than hidden size / number of heads


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

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
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


_BERT = Naming(
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    ffn_in="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    ffn_out="output.dense",
    num_heads="num_attention_heads",
    head_dim="attention_head_size",
    width="all_head_size",
    norms_first=False,
    ffn_neurons=attrgetter("intermediate_size"),
    ffn_setting="intermediate_size",
    has_head_dim=False,
)
_MPNET = replace(
    _BERT,
    attention="attention.attn",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
)
_DISTILBERT = Naming(
    layers="transformer.layer",
    attention="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    ffn_in="ffn.lin1",
    activation="ffn.activation",
    ffn_out="ffn.lin2",
    num_heads="n_heads",
    head_dim="attention_head_size",
    width="dim",
    norms_first=False,
    ffn_neurons=attrgetter("hidden_dim"),
    ffn_setting="hidden_dim",
    has_head_dim=False,
)
_VIT = Naming(
    layers="layers",
    attention="attention",
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    output="attention.o_proj",
    ffn_in="mlp.fc1",
    activation="mlp.activation_fn",
    ffn_out="mlp.fc2",
    num_heads="num_attention_heads",
    head_dim="head_dim",
    width=None,
    norms_first=True,
    ffn_neurons=attrgetter("intermediate_size"),
    ffn_setting="intermediate_size",
    has_head_dim=True,
)
_DINOV2 = replace(
    _VIT,
    layers="encoder.layer",
    ffn_neurons=lambda config: int(config.hidden_size * config.mlp_ratio),
    ffn_setting="mlp_ratio",
)
_NAMINGS = {
    "beit": _VIT,
    "bert": _BERT,
    "camembert": _BERT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "mpnet": _MPNET,
    "roberta": _BERT,
    "vit": _VIT,
    "xlm-roberta": _BERT,
}
# Biases as wide as the number of heads, computed outside the attention module.
_BIAS_PER_HEAD = ("relative_attention_bias", "relative_position_bias", "shared_position_bias")


def naming_of(module: Any) -> Naming:
    """Return the names of a transformers model; raises `UnsupportedArchitecture`."""
    config = module.config
    model_type: str = config.model_type
    reason = why_not_prunable({name: getattr(config, name, None) for name in READ})
    if reason is not None:
        raise UnsupportedArchitecture(model_type, reason)
    return _NAMINGS[model_type]


def layer_list(module: Any) -> nn.ModuleList:
    """Return the list that owns the encoder's layers; raises `UnsupportedArchitecture`."""
    path = naming_of(module).layers
    layers = module.base_model.get_submodule(path)
    if not isinstance(layers, nn.ModuleList):
        raise UnsupportedArchitecture(module.config.model_type, f"'{path}' is not a list of layers")
    return layers


def encoder_layers(module: Any) -> list[EncoderLayer]:
    """Return the encoder's layers, first to last, of a transformers model, pruned or not.

    Raises `UnsupportedArchitecture` when the model type is not in the table or the model is not
    built as its type usually is (a decoder, a gated feed-forward, replaced linear layers, layers
    that share weights).
    """
    naming, model_type = naming_of(module), module.config.model_type
    layers = []
    for index, layer in enumerate(layer_list(module)):
        find = _Finder(layer, naming, model_type)
        layers.append(EncoderLayer(index, layer, find.attention(), find.feed_forward()))
    _require_own_weights(layers, model_type)
    return layers


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


def require_prunable_heads(module: Any) -> None:
    """Raise `UnsupportedArchitecture` when heads cannot be removed, although neurons can."""
    for name, part in module.base_model.named_modules():
        if name.rpartition(".")[2] in _BIAS_PER_HEAD and part is not None:
            raise UnsupportedArchitecture(
                module.config.model_type,
                f"its relative position bias '{name}' is as wide as the number of heads and added "
                f"outside the attention module, so heads have to stay (set head_ratio to 0)",
            )


@dataclass(frozen=True)
class _Finder:
    """Finds the parts of one layer by their names."""

    layer: nn.Module
    naming: Naming
    model_type: str

    def attention(self) -> Attention | None:
        names = self.naming
        if isinstance(self.layer.get_submodule(names.output), ConstantOutput):
            return None
        module = self.layer.get_submodule(names.attention)
        found = Attention(
            module=module,
            query=self._linear(names.query),
            key=self._linear(names.key),
            value=self._linear(names.value),
            output=self._linear(names.output),
            num_heads=int(getattr(module, names.num_heads)),
            head_dim=int(getattr(module, names.head_dim)),
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
        if isinstance(self.layer.get_submodule(self.naming.ffn_out), ConstantOutput):
            return None
        return FeedForward(self._linear(self.naming.ffn_in), self._linear(self.naming.ffn_out))

    def _linear(self, path: str) -> nn.Linear:
        found = self.layer.get_submodule(path)
        if not isinstance(found, nn.Linear):
            raise UnsupportedArchitecture(
                self.model_type, f"'{path}' must be a linear layer, found {type(found).__name__}"
            )
        return found
