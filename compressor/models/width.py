"""The hidden size: which axis of which parameter has it, and cutting all of them to a new one.

transformers ties the hidden size to the heads (`hidden_size = num_heads * head_dim`), so a model
that lost dimensions of its residual stream but no heads cannot be built from its configuration.
Such a configuration holds the new `hidden_size` and, as its own entry, `head_dim`; the model is
built as wide as its heads and then cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.models.families.layers import encoder_layers

# The entry of a configuration that holds the hidden size before pruning and the features left.
_KEPT = "kept_features"


@dataclass(frozen=True, order=True)
class Axis:
    """One axis of a parameter; `copies` is 2 where two vectors of that width lie side by side."""

    parameter: str
    dim: int
    copies: int = 1


def head_dim_of(config: Any) -> int:
    """Return the width of one head that a configuration describes."""
    own: int | None = getattr(config, "head_dim", None)
    return own or int(config.hidden_size // config.num_attention_heads)


def widest_config(config: Any) -> Any:
    """Return a copy that transformers can build: at least as wide as all its heads together."""
    return _resized(
        config, max(config.hidden_size, config.num_attention_heads * head_dim_of(config))
    )


def set_hidden_size(config: Any, hidden_size: int) -> None:
    """Change a configuration to another hidden size with heads as wide as before."""
    config.head_dim = head_dim_of(config)
    if getattr(config, "embedding_size", None) == config.hidden_size:
        config.embedding_size = hidden_size  # ELECTRA adds a projection where the two differ
    config.hidden_size = hidden_size


def record_kept(config: Any, kept: Sequence[int]) -> None:
    """Note in a configuration, before its hidden size changes, which features of it stay.

    Repeated, features are still counted as they were before the first time.
    """
    before = getattr(config, _KEPT, None) or {
        "hidden_size": config.hidden_size,
        "features": list(range(config.hidden_size)),
    }
    features = [before["features"][feature] for feature in kept]
    setattr(config, _KEPT, {**before, "features": features})


def kept_features(config: Any, wide: Any) -> list[int] | None:
    """Return which features of a model of configuration `wide` one of `config` still has.

    None where both are as wide, or `config` does not come from a model as wide as `wide`.
    """
    record = getattr(config, _KEPT, None)
    if record is None or config.hidden_size == wide.hidden_size:
        return None
    return list(record["features"]) if record["hidden_size"] == wide.hidden_size else None


def width_axes(module: Any) -> tuple[Axis, ...]:
    """Return all axes that are as wide as the hidden size, in the order of the parameters.

    They are those that change when the same class is built with another hidden size, without those
    that count heads or feed-forward neurons. Raises `UnsupportedArchitecture`.
    """
    units = _unit_axes(module)
    widest = widest_config(module.config)
    hidden_size = widest.hidden_size
    shapes = _shapes(type(module), widest)
    other = _shapes(type(module), _resized(widest, hidden_size + widest.num_attention_heads))
    axes = []
    for name, parameter in module.named_parameters():
        for dim in range(parameter.ndim):
            if name in shapes:
                own, changed = shapes[name][dim], other[name][dim]
                copies = own // hidden_size if changed != own else 0
            else:  # the bias of a sub-layer that is gone, where its projection had none
                copies = 1
            if copies and (name, dim) not in units:
                axes.append(Axis(name, dim, copies))
    return tuple(axes)


@torch.no_grad()
def cut(module: Any, axes: Iterable[Axis], kept: Sequence[int], size: int) -> None:
    """Keep only the features `kept`, ascending, of `size` along `axes`, in place."""
    for axis in axes:
        old: nn.Parameter = module.get_parameter(axis.parameter)
        index = torch.tensor(
            [copy_ * size + feature for copy_ in range(axis.copies) for feature in kept],
            device=old.device,
        )
        new = nn.Parameter(old.index_select(axis.dim, index), requires_grad=old.requires_grad)
        path, _, name = axis.parameter.rpartition(".")
        owner = module.get_submodule(path)
        setattr(owner, name, new)
        if name == "weight":
            _describe(owner, new)


def _describe(owner: nn.Module, weight: Tensor) -> None:
    """Tell a layer the size that its weight now has."""
    if isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = weight.shape
    elif isinstance(owner, nn.Embedding):
        owner.embedding_dim = weight.shape[1]
    elif isinstance(owner, nn.LayerNorm):
        owner.normalized_shape = tuple(weight.shape)
    elif isinstance(owner, nn.Conv2d):
        owner.out_channels = weight.shape[0]


def _resized(config: Any, hidden_size: int) -> Any:
    own = copy.deepcopy(config)
    set_hidden_size(own, hidden_size)
    return own


def _shapes(model_class: Any, config: Any) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        module = model_class._from_config(config)
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _unit_axes(module: Any) -> set[tuple[str, int]]:
    """Return the axes that count heads or neurons, and not the width of the stream."""
    names = {part: name for name, part in module.named_modules()}
    rows: list[nn.Linear] = []
    columns: list[nn.Linear] = []
    for layer in encoder_layers(module):
        if layer.attention is not None:
            rows += [layer.attention.query, layer.attention.key, layer.attention.value]
            columns.append(layer.attention.output)
        if layer.feed_forward is not None:
            rows.append(layer.feed_forward.ffn_in)
            columns.append(layer.feed_forward.ffn_out)
    found = {(f"{names[linear]}.weight", 0) for linear in rows}
    found |= {(f"{names[linear]}.bias", 0) for linear in rows}
    return found | {(f"{names[linear]}.weight", 1) for linear in columns}
