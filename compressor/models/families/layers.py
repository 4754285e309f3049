"""The heads, neurons and layers of a live encoder, found where its family says that they sit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch_pruning
from torch import Tensor, nn

from compressor.models.families.base import EncoderParts, part_of
from compressor.models.families.handed_on_bias import KEPT_HEADS, leave_heads
from compressor.models.families.prunable import UnsupportedArchitecture, parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class ConstantOutput(nn.Module):
    """What stays of a sub-layer that lost all its units: the bias of its output projection.

    With it, removing every unit computes the same as setting every unit to zero.
    """

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        bias = torch.zeros(output.out_features) if output.bias is None else output.bias
        self.bias = nn.Parameter(bias.detach().clone().to(output.weight))

    @property
    def weight(self) -> Tensor:
        """Return what has the type of the weights, which T5 looks at before it projects."""
        return self.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the bias for every token; `hidden_states` gives the number of tokens only."""
        if hidden_states.shape[-1] == len(self.bias):
            return self.bias.expand_as(hidden_states)
        return self.bias.expand(*hidden_states.shape[:-1], -1)  # half of it, behind a gate


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
class Rows:
    """Rows of a linear layer, or numbers of a vector, that belong to units and go with them.

    They are `parts` stretches of equal length, in each of which every unit has `size` neighbours.
    """

    owner: nn.Module
    names: tuple[str, ...]  # of its parameters: weight and bias, or the vector
    parts: int
    size: int

    @property
    def each(self) -> int:
        """Return how many rows a unit has."""
        return self.parts * self.size

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters whose first axis these rows are."""
        return [self.owner.get_parameter(name) for name in self.names]

    def of(self, units: Sequence[int], num_units: int) -> list[int]:
        """Return the indices of the rows of `units`, ascending where these are."""
        return [
            (part * num_units + unit) * self.size + row
            for part in range(self.parts)
            for unit in units
            for row in range(self.size)
        ]

    def keep(self, units: Sequence[int], num_units: int) -> None:
        """Leave the rows of `units`, of `num_units` that there are, in place."""
        rows = self.of(units, num_units)
        if isinstance(self.owner, nn.Linear):
            gone = sorted(set(range(self.owner.out_features)) - set(rows))
            _cut(self.owner, torch_pruning.prune_linear_out_channels, gone)
            return
        for name in self.names:
            old = self.owner.get_parameter(name)
            fresh = nn.Parameter(old.detach()[rows].clone(), requires_grad=old.requires_grad)
            setattr(self.owner, name, fresh)


@dataclass(frozen=True, eq=False)
class PickedBias:
    """Picks the heads that a layer has left from a bias that all layers are given."""

    layer: nn.Module
    argument: str
    place: int

    def keep(self, heads: Sequence[int], num_heads: int) -> None:
        """Leave the numbers of `heads`, of `num_heads` that there were, to this layer."""
        before = getattr(self.layer, KEPT_HEADS, None)
        if before is None:
            if len(heads) == num_heads:
                return  # as it came
            device = next(self.layer.parameters()).device
            before = torch.arange(num_heads, device=device)
            self.layer.register_forward_pre_hook(self._pick, with_kwargs=True)
        self.layer.register_buffer(KEPT_HEADS, before[list(heads)].clone())

    def _pick(
        self, layer: nn.Module, given: tuple[object, ...], named: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        by_name, kept = self.argument in named, getattr(layer, KEPT_HEADS, None)
        if kept is None or (not by_name and len(given) <= self.place):
            return None
        bias = named[self.argument] if by_name else given[self.place]
        if not isinstance(bias, Tensor) or bias.shape[1] == 1:  # a mask, which is one for all heads
            return None
        picked = bias.index_select(1, kept)  # (batch, heads, tokens, tokens)
        if by_name:
            return given, {**named, self.argument: picked}
        return (*given[: self.place], picked, *given[self.place + 1 :]), named


@dataclass(frozen=True, eq=False)
class HandedOnBias:
    """Picks the heads that an attention has left from a bias that it hands on."""

    module: nn.Module

    def keep(self, heads: Sequence[int], num_heads: int) -> None:
        """Leave the numbers of `heads`, of `num_heads` that there were, to this attention."""
        leave_heads(self.module, heads, num_heads)


@dataclass(frozen=True, eq=False)
class Columns:
    """A parameter with a column for each head, of a module that a layer calls where it has it."""

    owner: nn.Module
    name: str
    layer: nn.Module

    @property
    def parameter(self) -> nn.Parameter:
        """Return the parameter, shape `(places, heads)`."""
        return self.owner.get_parameter(self.name)

    def remove(self) -> None:
        """Leave the layer without the module: no head reads what it computes."""
        name = next(name for name, module in self.layer.named_children() if module is self.owner)
        setattr(self.layer, name, None)

    def keep(self, heads: Sequence[int]) -> None:
        """Leave the columns of `heads` in place."""
        old = self.parameter
        fresh = nn.Parameter(old.detach()[:, list(heads)].clone(), requires_grad=old.requires_grad)
        setattr(self.owner, self.name, fresh)


@dataclass(frozen=True)
class Positions:
    """Relative positions that tokens meet: `span` to either side, for each of `tables` tables."""

    tables: int
    span: int
    at_most_length: bool

    def met(self, length: float) -> float:
        """Return how many a token of a text of so many tokens meets."""
        return 2 * self.tables * (min(self.span, length) if self.at_most_length else self.span)


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one layer; `rows` and columns of output are heads.

    Query, key and value are one and the same linear layer where their weights are packed. Query
    heads that share a key are counted as one head, `head_dim` is that of all of them.
    """

    module: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    num_heads: int
    head_dim: int
    rows: tuple[Rows, ...]
    relative: Positions | None = None
    columns: tuple[Columns, ...] = ()
    picked: PickedBias | HandedOnBias | None = None

    @property
    def is_packed(self) -> bool:
        """Return whether queries, keys and values come from one matrix."""
        return self.query is self.key

    def keep(self, heads: Sequence[int]) -> None:
        """Leave the weights of `heads` alone; the module's own count is another matter."""
        for rows in self.rows:
            rows.keep(heads, self.num_heads)
        for columns in self.columns:
            columns.keep(heads)
        if self.picked is not None:
            self.picked.keep(heads, self.num_heads)
        size = self.head_dim
        keep_columns(self.output, [head * size + it for head in heads for it in range(size)])


@dataclass(frozen=True, eq=False)
class FeedForward:
    """The feed-forward network of one layer; `rows` and columns of ffn_out are neurons."""

    ffn_in: nn.Linear
    ffn_out: nn.Linear
    rows: tuple[Rows, ...]

    @property
    def num_neurons(self) -> int:
        """Return the inner width."""
        return self.ffn_out.in_features

    def keep(self, neurons: Sequence[int]) -> None:
        """Leave the weights of `neurons` alone."""
        count = self.num_neurons
        for rows in self.rows:
            rows.keep(neurons, count)
        keep_columns(self.ffn_out, neurons)


def keep_columns(linear: nn.Linear, columns: Sequence[int]) -> None:
    """Leave these input features alone, in place; ascending."""
    gone = sorted(set(range(linear.in_features)) - set(columns))
    _cut(linear, torch_pruning.prune_linear_in_channels, gone)


def _cut(
    linear: nn.Linear, prune: Callable[[nn.Linear, list[int]], object], gone: list[int]
) -> None:
    """Take rows or columns out of a linear layer, in place.

    torch-pruning's parameters always train and keep a gradient, which is out of date; here they
    train as those before them did, and have none.
    """
    trains = [parameter.requires_grad for parameter in linear.parameters()]
    prune(linear, gone)
    for parameter, requires_grad in zip(linear.parameters(), trains, strict=True):
        parameter.requires_grad_(requires_grad)
        parameter.grad = None


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
    after_first: nn.Module | None = None  # what the first layer's output goes through

    @property
    def config(self) -> PreTrainedConfig:
        """Return the configuration of the encoder, of which that of the model may have several."""
        return part_of(self.module.config, self.parts.part)

    @property
    def depth(self) -> int:
        """Return how many layers are run, those with the same weights each time."""
        is_repeated = self.parts.repeated is not None
        return self.config.num_hidden_layers if is_repeated else len(self.layer_list)

    @property
    def layers(self) -> list[EncoderLayer]:
        """Return the layers that are there, first to last, with the parts that are left."""
        return [self._layer(index, layer) for index, layer in enumerate(self.layer_list)]

    def _layer(self, index: int, layer: nn.Module) -> EncoderLayer:
        config = self.config
        shared = queries_a_key(config, self.parts)
        find = _Finder(layer, self.parts, config, str(self.module.config.model_type), shared)
        return EncoderLayer(index, layer, self.parts, find.attention(), find.feed_forward())


@contextmanager
def only_layers(encoder: Encoder, indices: Sequence[int]) -> Iterator[None]:
    """Leave an encoder the layers of `indices`, ascending, for as long as a block takes.

    Where the configuration names the kind of attention of each layer, such as a window of tokens,
    theirs are the first in it meanwhile. It stays as long: keys and values that are kept for later
    tokens are counted by it.
    """
    layers, config = encoder.layer_list, encoder.config
    every, kinds = list(layers), getattr(config, "layer_types", None)
    del layers[:]
    layers.extend(every[index] for index in indices)
    if isinstance(kinds, list):
        order = [*indices, *(index for index in range(len(kinds)) if index not in indices)]
        config.layer_types = [kinds[index] for index in order]
    try:
        yield
    finally:
        del layers[:]
        layers.extend(every)
        if isinstance(kinds, list):
            config.layer_types = kinds


def queries_a_key(config: PreTrainedConfig, parts: EncoderParts) -> int:
    """Return how many query heads share a key and a value, 1 where each has its own."""
    if parts.key_heads is None:
        return 1
    return int(config.num_attention_heads // getattr(config, parts.key_heads))


def find_encoder(module: PreTrainedModel) -> Encoder:
    """Return the encoder of a transformers model, pruned or not.

    Raises `UnsupportedArchitecture` when the model type is not in the table, or the model is not
    built as its type usually is (a decoder, a gated feed-forward, replaced linear layers, layers
    that share weights).
    """
    parts, model_type = parts_of(module.config), module.config.model_type
    name = type(module).__name__
    if parts.classes_with_decoder and name.endswith(parts.classes_with_decoder):
        raise UnsupportedArchitecture(model_type, f"{name} holds a decoder too")
    layer_list = module.base_model.get_submodule(parts.layers)
    if not isinstance(layer_list, nn.ModuleList):
        raise UnsupportedArchitecture(model_type, f"'{parts.layers}' is not a list of layers")
    after = parts.after_first_layer
    parent, _, name = (after or "").rpartition(".")
    after_first = None if after is None else getattr(module.base_model.get_submodule(parent), name)
    encoder = Encoder(module, parts, layer_list, after_first)
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
    config: PreTrainedConfig
    model_type: str
    queries_a_key: int

    def setting(self, name: str) -> object:
        return getattr(self.config, name, None)

    def attention(self) -> Attention | None:
        parts = self.parts.attention
        if isinstance(self.layer.get_submodule(parts.output), ConstantOutput):
            return None
        module, output = self.layer.get_submodule(parts.module), self._linear(parts.output)
        head_dim = int(getattr(module, parts.head_dim))
        # Query heads that share a key go together: they are one wide head with a narrow key.
        key_dim, head_dim = head_dim, head_dim * self.queries_a_key
        named = parts.num_heads
        num_heads = output.in_features // head_dim if named is None else int(getattr(module, named))
        query, key, value = map(self._linear, (parts.query, parts.key, parts.value))
        width = num_heads * head_dim
        if query is key:
            by_part = parts.packed_by == "part"
            rows = [_rows_of(query, *((3, head_dim) if by_part else (1, 3 * head_dim)))]
        else:
            rows = [_rows_of(query, 1, head_dim)]
            rows += [_rows_of(linear, 1, key_dim) for linear in (key, value)]
        for its in rows:
            if len(its.parameters[0]) != num_heads * its.each:
                which = "query, key and value must " + ("be 3 times" if query is key else "each be")
                raise UnsupportedArchitecture(
                    self.model_type,
                    f"{which} {num_heads} heads of {its.each}, but one is "
                    f"{len(its.parameters[0])} wide",
                )
        rows += self._beside(parts.beside, head_dim, width)
        return Attention(
            module,
            query,
            key,
            value,
            output,
            num_heads,
            head_dim,
            tuple(rows),
            self._met(module),
            self._columns(parts.columns, num_heads),
            self._picked() if self.parts.bias_place is None else HandedOnBias(module),
        )

    def _columns(self, paths: Sequence[str], num_heads: int) -> tuple[Columns, ...]:
        """Return the parameters with a column for each head, as far as they are there."""
        found = []
        for path in paths:
            parent, _, name = path.rpartition(".")
            holder, _, module = parent.rpartition(".")
            owner = getattr(self.layer.get_submodule(holder), module, None)
            if not isinstance(owner, nn.Module):
                continue
            found.append(Columns(owner, name, self.layer.get_submodule(holder)))
            if (columns := found[-1].parameter.shape[1]) != num_heads:
                raise UnsupportedArchitecture(
                    self.model_type,
                    f"'{path}' must have {num_heads} columns as there are heads, and has {columns}",
                )
        return tuple(found)

    def _picked(self) -> PickedBias | None:
        shared = self.parts.shared_bias
        if shared is None or not (shared.asked_by is None or self.setting(shared.asked_by)):
            return None
        return PickedBias(self.layer, shared.argument, shared.place)

    def _met(self, module: nn.Module) -> Positions | None:
        relative = self.parts.attention.relative
        if relative is None or not hasattr(module, relative.span):
            return None
        tables = len({"c2p", "p2c"}.intersection(getattr(module, relative.kinds)))
        return Positions(tables, int(getattr(module, relative.span)), relative.at_most_length)

    def _beside(self, paths: Sequence[str], head_dim: int, width: int) -> list[Rows]:
        """Return the rows of what else has some for each head, as far as it is there."""
        found = []
        for path in paths:
            parent, _, name = path.rpartition(".")
            owner = self.layer.get_submodule(parent)
            held = getattr(owner, name, None)
            if held is None:
                continue
            one = isinstance(held, nn.Parameter)
            rows = Rows(owner, (name,), 1, head_dim) if one else _rows_of(held, 1, head_dim)
            if len(rows.parameters[0]) != width:
                raise UnsupportedArchitecture(
                    self.model_type,
                    f"'{path}' must be {width} wide as the heads are, and is "
                    f"{len(rows.parameters[0])}",
                )
            found.append(rows)
        return found

    def feed_forward(self) -> FeedForward | None:
        parts = self.parts.feed_forward
        if isinstance(self.layer.get_submodule(parts.ffn_out), ConstantOutput):
            return None
        ffn_in, ffn_out = self._linear(parts.ffn_in), self._linear(parts.ffn_out)
        is_packed = parts.gate == parts.ffn_in
        rows = [_rows_of(ffn_in, 2 if is_packed else 1, 1)]
        if parts.gate is not None and not is_packed:
            rows.append(_rows_of(self._linear(parts.gate), 1, 1))
        for its in rows:
            if len(its.parameters[0]) != its.each * ffn_out.in_features:
                raise UnsupportedArchitecture(
                    self.model_type,
                    f"'{parts.ffn_out}' reads {ffn_out.in_features} neurons, and the linear layer "
                    f"before it is {len(its.parameters[0])} wide",
                )
        return FeedForward(ffn_in, ffn_out, tuple(rows))

    def _linear(self, path: str) -> nn.Linear:
        found = self.layer.get_submodule(path)
        if not isinstance(found, nn.Linear):
            raise UnsupportedArchitecture(
                self.model_type, f"'{path}' must be a linear layer, found {type(found).__name__}"
            )
        return found


def _rows_of(linear: nn.Linear, parts: int, size: int) -> Rows:
    names = ("weight",) if linear.bias is None else ("weight", "bias")
    return Rows(linear, names, parts, size)
