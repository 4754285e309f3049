"""The structure of a pruned encoder: heads and neurons of each layer, and models of that shape.

A configuration has one number of heads and one feed-forward width for all layers, so transformers
cannot describe a model whose layers differ (huggingface/transformers#33225). `EncoderShape` can.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from compressor.errors import EnvironmentMismatch
from compressor.models.conv1d import make_linear
from compressor.models.families import EncoderParts
from compressor.models.families.handed_on_bias import KEPT_HEADS, leave_no_heads
from compressor.models.families.layers import (
    ConstantOutput,
    Encoder,
    EncoderLayer,
    HeadlessAttention,
    find_encoder,
    keep_columns,
    queries_a_key,
)
from compressor.models.families.prunable import UnsupportedArchitecture, require_fewer_layers
from compressor.models.low_rank import LowRankTable, factor_table
from compressor.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

__all__ = [
    "EncoderShape",
    "LayerShape",
    "ModelForm",
    "apply_shape",
    "configure_shape",
    "dense_shape",
    "form_of",
    "input_embeddings",
    "keep_layers",
    "read_shape",
    "rebuild",
    "remove_attention",
    "remove_feed_forward",
    "require_first_layer",
    "set_num_heads",
    "with_first_layer",
]

_Count = Annotated[int, Field(strict=True, ge=0)]


class LayerShape(BaseModel):
    """How many units one layer has; 0 means that the sub-layer is gone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_heads: _Count
    ffn_neurons: _Count


class EncoderShape(BaseModel):
    """The shape of an encoder, first layer to last; without layers these are the plain ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    head_dim: Annotated[int, Field(strict=True, gt=0)] | None = None
    layers: tuple[LayerShape, ...]
    # Of a table of words that is a product of two; None: it is whole, and nothing is written.
    table_rank: Annotated[int, Field(strict=True, gt=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.layers and self.table_rank is None:
            raise ValueError("layers: must not be empty where there is no table_rank")
        if bool(self.layers) != (self.head_dim is not None):
            raise ValueError("layers: there must be some where head_dim is given, and only there")
        return self

    def to_dict(self) -> dict[str, object]:
        """Return plain types that JSON can hold."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def from_dict(cls, content: object) -> EncoderShape:
        """Read what `to_dict` wrote; raises `ValueError` that names every wrong entry."""
        if isinstance(content, dict) and "hidden_size" in content:
            raise ValueError(
                f"hidden_size is {content['hidden_size']!r}: the checkpoint was made by "
                f"prune_width, which this version no longer has; prune the untouched checkpoint "
                f"anew"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            mistakes = [
                f"{'.'.join(map(str, item['loc'])) or 'content'}: {item['msg']}, "
                f"got {item['input']!r}"
                for item in error.errors()
            ]
            raise ValueError("; ".join(mistakes)) from error


def read_shape(module: PreTrainedModel) -> EncoderShape | None:
    """Return the shape of a model, or None when it is the plain one that its config describes.

    A model of an unsupported architecture has never been pruned, so its layers are the plain ones.
    """
    try:
        encoder = find_encoder(module)
    except UnsupportedArchitecture:
        rank = _table_rank(module)
        return None if rank is None else EncoderShape(layers=(), table_rank=rank)
    return _own_shape(encoder)


def input_embeddings(module: PreTrainedModel) -> nn.Module | None:
    """Return the table of words or the projection of patches; None for what reads sounds."""
    try:
        return module.get_input_embeddings()
    except NotImplementedError:  # of transformers, where it does not know what reads the inputs
        return None


def _table_rank(module: PreTrainedModel) -> int | None:
    """Return the rank of a table of words that is a product of two, None of any other."""
    table = input_embeddings(module)
    return table.rank if isinstance(table, LowRankTable) else None


def _own_shape(encoder: Encoder) -> EncoderShape | None:
    dense = dense_shape(encoder.config, encoder.parts)
    shape = EncoderShape(
        table_rank=_table_rank(encoder.module),
        head_dim=dense.head_dim,
        layers=tuple(
            LayerShape(num_heads=layer.num_heads, ffn_neurons=layer.num_neurons)
            for layer in encoder.layers
        ),
    )
    return None if shape == dense else shape


def apply_shape(module: PreTrainedModel, shape: EncoderShape) -> None:
    """Cut a model fresh from its configuration to `shape`; its weights are to be overwritten.

    Raises `EnvironmentMismatch` when `shape` does not fit the model's configuration.
    """
    if shape.table_rank is not None:
        factor_table(module, shape.table_rank)
    if not shape.layers:
        return
    try:
        encoder = find_encoder(module)
    except UnsupportedArchitecture as error:
        raise EnvironmentMismatch(f"the shape of a pruned model is given, but {error}") from error
    _check_fits(shape, dense_shape(encoder.config, encoder.parts))
    for layer, target in zip(encoder.layers, shape.layers, strict=True):
        if target.num_heads == 0:
            remove_attention(layer)
        elif layer.attention is not None:
            layer.attention.keep(range(target.num_heads))
            set_num_heads(layer, target.num_heads)
        if target.ffn_neurons == 0:
            remove_feed_forward(layer)
        elif layer.feed_forward is not None:
            layer.feed_forward.keep(range(target.ffn_neurons))


def configure_shape(encoder: Encoder) -> tuple[str, ...]:
    """Let the configuration say what it can of a model whose layers are alike, in place.

    Returns what it cannot say, one reason each; with none, the model has the plain shape of its
    configuration, so that transformers alone loads what is saved.
    """
    shape = _own_shape(encoder)
    if shape is None:
        return ()
    if shape.table_rank is not None:
        return (f"its table of words is a product of rank {shape.table_rank}",)
    layer, *others = shape.layers
    if any(other != layer for other in others) or 0 in (layer.num_heads, layer.ffn_neurons):
        return ("its layers differ, or one is without heads or neurons",)
    config, parts = encoder.config, encoder.parts
    reasons = []
    buffers = (name for name, _ in encoder.layer_list.named_buffers())
    if any(name.rpartition(".")[2] == KEPT_HEADS for name in buffers):
        # The table of that bias stays as wide as the number of heads in the configuration says.
        reasons.append("its layers read a bias that they share, of which some heads are gone")
    elif layer.num_heads != dense_shape(config, parts).layers[0].num_heads:
        if parts.has_head_dim:
            config.head_dim, config.num_attention_heads = shape.head_dim, layer.num_heads
        else:
            why = "has no key for the size of a head (it is hidden size / number of heads)"
            if parts.key_heads is not None:
                why = "wants a number of heads that divides the hidden size"
            reasons.append(
                f"a configuration of type '{config.model_type}' {why}, so it cannot say "
                f"{counted(layer.num_heads, 'head')} of {shape.head_dim} in a hidden size of "
                f"{config.hidden_size}"
            )
    value = parts.neurons.value_for(layer.ffn_neurons, config.hidden_size)
    also = parts.as_wide_as_neurons
    if also is not None and layer.ffn_neurons != parts.neurons.read(config):
        reasons.append(
            f"a configuration of type '{config.model_type}' has one key ({parts.neurons.name}) for "
            f"its neurons and for {also}, so it cannot say {layer.ffn_neurons}"
        )
    elif value is not None:
        setattr(config, parts.neurons.name, value)
    else:
        reasons.append(
            f"a configuration of type '{config.model_type}' gives neurons as a whole multiple "
            f"({parts.neurons.name}) of the hidden size {config.hidden_size}, so it cannot say "
            f"{layer.ffn_neurons}"
        )
    return tuple(reasons)


@dataclass(frozen=True)
class ModelForm:
    """All of a model but its weights; another process can make the same one of it."""

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    shape: EncoderShape | None
    dtype: torch.dtype
    is_training: bool

    def make(self) -> PreTrainedModel:
        """Return a new model of this form, freshly initialised, on the CPU."""
        with torch.random.fork_rng(devices=[]):  # weights to overwrite cost no random numbers
            fresh: PreTrainedModel = self.kind._from_config(self.config, dtype=self.dtype)
        make_linear(fresh)
        if self.shape is not None:
            apply_shape(fresh, self.shape)
        fresh.train(self.is_training)
        return fresh


def form_of(module: PreTrainedModel) -> ModelForm:
    """Return the form of a model; its configuration is a copy."""
    config = copy.deepcopy(module.config)
    return ModelForm(type(module), config, read_shape(module), module.dtype, module.training)


def rebuild(module: PreTrainedModel) -> PreTrainedModel:
    """Return a new model of the same class, configuration and shape, with weights of its own.

    They are freshly initialised, on the CPU, of the same type; the mode is that of `module`.
    """
    return form_of(module).make()


def keep_layers(encoder: Encoder, indices: Sequence[int]) -> None:
    """Remove all layers but `indices` (counted from 0, ascending) and correct the configuration.

    Raises `ValueError` when `indices` is empty, not ascending or out of range, and
    `UnsupportedArchitecture` when the first layer is not among them and has to stay, or all have.
    """
    layers = encoder.layer_list
    if (
        not indices
        or list(indices) != sorted(set(indices))
        or not 0 <= indices[0] <= indices[-1] < encoder.depth
    ):
        raise ValueError(
            f"layers to keep must be one or more ascending indices from 0 to {encoder.depth - 1}, "
            f"got {list(indices)}"
        )
    if encoder.parts.repeated is not None:  # one is like the other
        encoder.config.num_hidden_layers = len(indices)
        return
    if len(indices) < encoder.depth:
        require_fewer_layers(encoder.config)
    require_first_layer(encoder, indices)
    if (path := encoder.parts.reads_every_head) is not None:
        linear = encoder.module.base_model.get_submodule(path)
        assert isinstance(linear, nn.Linear), "the family says so"
        heads = linear.in_features // encoder.depth
        keep_columns(linear, [index * heads + head for index in indices for head in range(heads)])
    kept = [layers[index] for index in indices]
    del layers[:]
    layers.extend(kept)
    for new_index, layer in enumerate(kept):
        numbered: list[Any] = [part for part in layer.modules() if hasattr(part, "layer_idx")]
        for part in numbered:
            part.layer_idx = new_index
    _set_depth(encoder.config, indices)


def require_first_layer(encoder: Encoder, kept: Sequence[int]) -> None:
    """Raise `UnsupportedArchitecture` unless the first layer stays where it has to."""
    reason = encoder.parts.first_layer_stays
    if reason is not None and 0 not in kept:
        model_type = encoder.module.config.model_type
        raise UnsupportedArchitecture(
            model_type,
            reason,
            f"layer 0 of model type '{model_type}' has to stay ({reason}), the layers that would "
            f"stay are {', '.join(map(str, kept))}; keep layer 0 among them",
        )


def with_first_layer(encoder: Encoder, kept: Sequence[int]) -> tuple[int, ...]:
    """Return layers that were chosen, with layer 0 in place of the first where it has to stay."""
    has_to_stay = encoder.parts.first_layer_stays is not None
    return (0, *kept[1:]) if has_to_stay else tuple(kept)


def _set_depth(config: PreTrainedConfig, kept: Sequence[int]) -> None:
    """Write which layers are left into a configuration.

    Those that can be a backbone's name each layer, and which of them give features: the last. Some
    list the kind of attention of each.
    """
    depth = len(kept)
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = [kinds[index] for index in kept]
    config.num_hidden_layers = depth
    if hasattr(config, "stage_names"):
        config.stage_names = ["stem", *(f"stage{number}" for number in range(1, depth + 1))]
        config.set_output_features_output_indices(out_features=None, out_indices=None)


def remove_attention(layer: EncoderLayer) -> None:
    """Replace a layer's attention, so that only the bias of its output projection is added."""
    if layer.attention is None:
        return
    parts = layer.parts.attention
    if hasattr(layer.module, KEPT_HEADS):
        delattr(layer.module, KEPT_HEADS)
    for columns in layer.attention.columns:
        columns.remove()
    constant = ConstantOutput(layer.attention.output)
    if layer.parts.bias_place is not None:
        output = parts.output.removeprefix(f"{parts.module}.")
        leave_no_heads(layer.attention.module, output, constant)
        return
    headless = HeadlessAttention()
    inside = parts.module + "."
    if parts.output.startswith(inside):
        headless.add_module(parts.output.removeprefix(inside), constant)
    else:
        layer.module.set_submodule(parts.output, constant)
    layer.module.set_submodule(parts.module, headless.train(layer.module.training))


def remove_feed_forward(layer: EncoderLayer) -> None:
    """Replace a layer's feed-forward network, so that only the bias of its output is added."""
    if layer.feed_forward is None:
        return
    parts = layer.parts.feed_forward
    for path in (parts.ffn_in, parts.gate, parts.activation):
        if path is not None:
            layer.module.set_submodule(path, nn.Identity())
    layer.module.set_submodule(parts.ffn_out, ConstantOutput(layer.feed_forward.ffn_out))


def set_num_heads(layer: EncoderLayer, num_heads: int) -> None:
    """Tell a layer's attention module how many heads its linear layers now hold."""
    assert layer.attention is not None, "a layer without heads stays without"
    module, parts = layer.attention.module, layer.parts.attention
    if parts.num_heads is not None:
        setattr(module, parts.num_heads, num_heads)
    if parts.width is not None:
        setattr(module, parts.width, num_heads * layer.attention.head_dim)


def dense_shape(config: PreTrainedConfig, parts: EncoderParts) -> EncoderShape:
    """Return the shape that a configuration describes."""
    own: int | None = getattr(config, "head_dim", None)
    head_dim = own or int(config.hidden_size // config.num_attention_heads)
    neurons = parts.neurons.read(config)
    heads = config.num_attention_heads // queries_a_key(config, parts)
    layer = LayerShape(num_heads=heads, ffn_neurons=neurons)
    depth = config.num_hidden_layers
    if parts.repeated is not None:
        depth = getattr(config, parts.repeated)
    return EncoderShape(head_dim=head_dim, layers=(layer,) * depth)


def _check_fits(shape: EncoderShape, dense: EncoderShape) -> None:
    if len(shape.layers) != len(dense.layers):
        raise EnvironmentMismatch(
            f"the shape of the pruned model has {counted(len(shape.layers), 'layer')}, config.json "
            f"describes {len(dense.layers)}; take both files from the same save"
        )
    if shape.head_dim != dense.head_dim:
        raise EnvironmentMismatch(
            f"the shape of the pruned model has heads of {shape.head_dim}, config.json describes "
            f"heads of {dense.head_dim}; take both files from the same save"
        )
    for index, (layer, limit) in enumerate(zip(shape.layers, dense.layers, strict=True)):
        if layer.num_heads > limit.num_heads or layer.ffn_neurons > limit.ffn_neurons:
            raise EnvironmentMismatch(
                f"layers.{index} of the shape of the pruned model has "
                f"{counted(layer.num_heads, 'head')} and {counted(layer.ffn_neurons, 'neuron')}, "
                f"config.json allows at most {limit.num_heads} and {limit.ffn_neurons}; take both "
                f"files from the same save"
            )
