"""Attention that hands on a bias for all heads, and has only some of them itself, or none.

The bias of relative positions is computed by the first layer of a T5 for all heads; each layer
gives the next what it was given. So a layer that lost heads picks from the bias what is its own,
and still hands on all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# The buffer of a module that lost heads: which of them are left, of those that the bias is for.
KEPT_HEADS = "kept_heads"

_CLASSES: dict[tuple[type[Any], str], type[Any]] = {}


def leave_heads(module: nn.Module, heads: Sequence[int], num_heads: int) -> None:
    """Let an attention module pick `heads`, of `num_heads` that there were, from its bias."""
    before = getattr(module, KEPT_HEADS, None)
    if before is None:
        if len(heads) == num_heads:
            return  # as it came
        before = torch.arange(num_heads, device=next(module.parameters()).device)
        module.__class__ = _class_with(type(module), "OfSomeHeads", _with_some_heads)
    module.register_buffer(KEPT_HEADS, before[list(heads)].clone())


def leave_no_heads(module: nn.Module, output: str, constant: nn.Module) -> None:
    """Let an attention module give `constant`, its `output` from now on, and hand on the bias."""
    base = getattr(type(module), "made_of", type(module))
    if hasattr(module, KEPT_HEADS):
        delattr(module, KEPT_HEADS)
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            delattr(module, name)
    module.add_module(output, constant)
    module.__class__ = _class_with(base, "OfNoHeads", _without_heads)


def first_bias(module: Any, tokens: int) -> Tensor:
    """Return the bias that the first layer's attention computes, `(1, heads, tokens, tokens)`."""
    found: Tensor = module.compute_bias(tokens, tokens, device=next(module.parameters()).device)
    return found


def _class_with(base: type[Any], ending: str, forward: Callable[..., Any]) -> type[Any]:
    """Return a class that is made once, so that two such modules are of one class."""
    members = {"forward": forward, "made_of": base}
    made = type(f"{base.__name__}{ending}", (base,), members)
    return _CLASSES.setdefault((base, ending), made)


def _bias_of(module: Any, hidden_states: Tensor, position_bias: Tensor | None) -> Tensor:
    """Return the bias of all heads, `(1, heads, tokens, tokens)`; the first layer computes it."""
    return first_bias(module, hidden_states.shape[1]) if position_bias is None else position_bias


def _with_some_heads(
    self: Any, hidden_states: Tensor, position_bias: Tensor | None = None, **named: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    whole = _bias_of(self, hidden_states, position_bias)
    own = whole.index_select(1, getattr(self, KEPT_HEADS))
    whole_class = type(self).made_of
    states, _, attentions = whole_class.forward(self, hidden_states, position_bias=own, **named)
    return states, whole, attentions


def _without_heads(
    self: Any,
    hidden_states: Tensor,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor, None]:
    return self.o(hidden_states), _bias_of(self, hidden_states, position_bias), None
