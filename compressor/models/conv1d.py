"""GPT-2's linear layers, whose weights lie transposed (Conv1D), as linear layers and back.

Everything that removes, scores, rounds or fits units knows linear layers. So a model has those from
when it is loaded until it is saved, where transformers expects its own again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Kind = TypeVar("Kind", bound=nn.Module)


class TransposedLinear(nn.Linear):
    """A linear layer that is a Conv1D in the class of transformers and in its files."""


def make_linear(module: nn.Module) -> None:
    """Put a linear layer with the same weights in the place of each Conv1D."""
    for parent, name, found in _children(module, Conv1D):
        weight: nn.Parameter = found.weight
        linear = TransposedLinear(weight.shape[0], weight.shape[1], device="meta")
        linear.weight = _transposed(weight)
        linear.bias = found.bias
        setattr(parent, name, linear.train(found.training))


@contextmanager
def as_transformers_saves(module: nn.Module) -> Iterator[None]:
    """Have each Conv1D in its place again, for as long as a block runs."""
    replaced = _children(module, TransposedLinear)
    for parent, name, linear in replaced:
        old: Any = Conv1D(linear.out_features, 1)  # its weights are those of the linear layer
        old.weight, old.bias = _transposed(linear.weight), linear.bias
        setattr(parent, name, old)
    try:
        yield
    finally:
        for parent, name, linear in replaced:
            setattr(parent, name, linear)


def _transposed(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)


def _children(module: nn.Module, kind: type[Kind]) -> list[tuple[nn.Module, str, Kind]]:
    return [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
