"""What a family of architectures is: where its units sit, and what its configuration says of them.

Frozen facts, free of torch, so that `compress validate` tells by config.json alone what a pass
cannot do with a checkpoint. Whatever removes, scores or counts units reads them through
`layers.py`, which finds the same parts in a live module.

Weights may be packed (one matrix for queries, keys and values, or for both halves of a gate): then
one path stands for several, and `layers.py` says which rows are whose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    # The content of config.json, or what transformers made of it.
    Config = Mapping[str, object] | PreTrainedConfig


def setting(config: Config, name: str) -> object:
    """Return an entry of a configuration: the content of config.json, or what transformers made."""
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def says(config: Config, name: str, value: object) -> bool:
    """Whether a configuration has an entry, and that it is `value`; one that is left out is not."""
    if isinstance(config, Mapping):
        return name in config and config[name] == value
    return hasattr(config, name) and getattr(config, name) == value


def part_of(config: PreTrainedConfig, part: str | None) -> PreTrainedConfig:
    """Return the part of a configuration that is the encoder's, all of it where that is None."""
    if part is None:
        return config
    found: PreTrainedConfig = getattr(config, part)
    return found


@dataclass(frozen=True)
class RelativePositions:
    """Positions that queries and keys meet; attributes of the attention module, present or not."""

    kinds: str  # the list of what meets what: c2p, p2c
    span: str  # how many positions there are to either side
    at_most_length: bool = False  # and no more of them than tokens


@dataclass(frozen=True)
class AttentionParts:
    """The linear layers of an attention, as paths from its layer.

    Where query, key and value are one path, their weights are packed in one matrix.
    """

    module: str
    query: str
    key: str
    value: str
    output: str
    # Attributes of the module:
    num_heads: str | None  # None where the module tells it by the width of its weights
    head_dim: str
    width: str | None  # the product of the two, where the module keeps it
    # How packed rows lie: all queries, all keys, all values, or these three for each head in turn.
    packed_by: Literal["part", "head"] = "part"
    # Linear layers and parameters beside these, present or not, with rows for each head.
    beside: tuple[str, ...] = ()
    # Parameters, present or not, with a column for each head.
    columns: tuple[str, ...] = ()
    relative: RelativePositions | None = None


@dataclass(frozen=True)
class FeedForwardParts:
    """A feed-forward network of two linear layers, or three with a gate; paths from its layer.

    Where `gate` is the path of `ffn_in`, the weights of both are packed in one matrix, one below
    the other.
    """

    ffn_in: str
    activation: str | None  # None where it is a function
    ffn_out: str
    gate: str | None = None


@dataclass(frozen=True)
class NeuronSetting:
    """The setting that says how many neurons each layer has, or how often the hidden size."""

    name: str
    is_ratio: bool = False
    without: int | None = None  # times the hidden size, where the setting is null

    def read(self, config: PreTrainedConfig) -> int:
        """Return the neurons of every layer."""
        value = getattr(config, self.name)
        if value is None and self.without is not None:
            return int(config.hidden_size * self.without)
        return int(config.hidden_size * value) if self.is_ratio else int(value)

    def value_for(self, neurons: int, hidden_size: int) -> int | None:
        """Return what the setting says for so many neurons; None where it cannot say it."""
        if not self.is_ratio:
            return neurons
        return neurons // hidden_size if neurons % hidden_size == 0 else None


@dataclass(frozen=True)
class FixedHeads:
    """Why heads have to stay."""

    asked_by: str  # the setting that is true where they have to
    reason: str


@dataclass(frozen=True)
class SharedBias:
    """A bias with a number for each head that is computed once and given to all layers.

    A layer without some of its heads picks those of the others.
    """

    argument: str  # of a layer's forward
    place: int  # of it, where it is given without its name
    asked_by: str | None = None  # the setting that is true where there is one; None: always


@dataclass(frozen=True)
class EncoderParts:
    """Where the heads, neurons and layers of an encoder sit, and which settings count them."""

    layers: str  # the list of layers, as a path from the base model
    attention: AttentionParts
    feed_forward: FeedForwardParts
    # Whether a sub-layer's norm comes first and its sum with the residual is what goes on;
    # elsewhere the sum is normalised afterwards.
    norms_first: bool
    # What the outputs of attention and feed-forward network are multiplied by before they are
    # added: parameters, as paths from a layer.
    scales: tuple[str, str] | None
    neurons: NeuronSetting
    activation: str | None  # the setting that names the activation function; None: it is a GELU
    has_head_dim: bool  # whether heads may be other than hidden size / number of heads
    # The setting that says whether norms come first, where families of one type differ.
    norms_first_if: str | None = None
    # Whether what a sub-layer gives is normalised once more before it is added.
    normalizes_outputs: bool = False
    # What else is as wide as the setting of the neurons says, and loses none of its own.
    as_wide_as_neurons: str | None = None
    # The part of a configuration of several that is the encoder's; None: all of it.
    part: str | None = None
    fixed_heads: FixedHeads | None = None
    shared_bias: SharedBias | None = None
    refused_with: tuple[str, ...] = ()  # settings with which nothing can go
    gated_by: str | None = None  # the setting by which the feed-forward network is gated
    gated_feed_forward: FeedForwardParts | None = None  # where its parts are then; None: not known
    rotates: bool = False  # queries and keys by their position
    # The setting that says how many heads keys and values have, of which each serves several query
    # heads: these go together, and are counted as one. None: as many as queries.
    key_heads: str | None = None
    # The setting that says how long the list of layers is, where all of it is run again for each of
    # num_hidden_layers. None: each layer is run once.
    repeated: str | None = None
    # Where a layer is given a bias with a number for each head, which the first one's attention
    # computes and each hands to the next: the place among what its forward takes. None: nowhere.
    bias_place: int | None = None
    # How names of classes end that hold a decoder of the same widths too.
    classes_with_decoder: tuple[str, ...] = ()
    # Why the first layer has to stay, where it is built unlike the others, and the setting above 0
    # with which it is; None: always.
    first_layer_stays: str | None = None
    first_layer_stays_with: str | None = None
    # The setting with which what all layers give is summed, by a weight for each. None: nowhere.
    sums_layers: str | None = None
    # A linear layer that reads a number of each head of each layer in turn, and no task's output; a
    # path from the base model.
    reads_every_head: str | None = None
    # A module that computes what the second layer reads from what the first one gave, present or
    # not; a path from the base model.
    after_first_layer: str | None = None


@dataclass(frozen=True)
class Family:
    """What is known of a model type; the defaults are what holds for most."""

    # Where the units sit, or why none can be removed.
    encoder: EncoderParts | str
    # The row of the table of positions that the first token reads.
    first_position: int | Literal["after_padding"] = 0
    # Whether its int8 file was compared with its simulation in PyTorch, and gave the same logits.
    int8_simulated: bool = False
    shares_layers: bool = False  # one set of weights for all of them
    # What it does to padding, where outputs depend on how far a text is padded; None where a mask
    # keeps both apart.
    reads_padding: str | None = None
    # What of it no ONNX file computes for texts of any length; None where nothing is known of it.
    not_exported: str | None = None
    # A setting and its value with which a model of the type does neither of both.
    unless: tuple[str, object] | None = None
    # Whether its attention takes blocks in place of all tokens where a text has many of them, and
    # all tokens from then on once it has read a shorter text.
    is_block_sparse: bool = False
    # What position_embedding_type may say of it beside absolute: what transformers computes.
    position_types: tuple[str, ...] = ()

    def has_own_ways(self, config: Config) -> bool:
        """Whether what `reads_padding` and `not_exported` say holds for a configuration."""
        return self.unless is None or not says(config, *self.unless)
