"""An exponential moving average of the weights of a model over the steps of its training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compressor.training.sharding import divided_like

_COUNT = "count"
_WEIGHT = "weight."


class WeightAverage:
    """The moving average of all weights that are trained.

    At step n it decays by `decay`, or by (1 + n) / (10 + n) where that is less, so that a short
    training does not end where it began. State for checkpoints is tensors by name.

    Ref: Polyak & Juditsky 1992, SIAM Journal on Control and Optimization 30:838; the smaller decay
    of the first steps is that of `tf.train.ExponentialMovingAverage`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self._count = 0
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step into the average."""
        weights = self._weights()
        if not self._means:
            self._means = {name: value.detach().clone() for name, value in weights.items()}
        self._count += 1
        decay = min(self._decay, (1 + self._count) / (10 + self._count))
        for name, mean in self._means.items():
            mean.lerp_(weights[name], 1 - decay)

    @torch.no_grad()
    def put_in_place(self) -> None:
        """Make the average the weights of the model."""
        for name, value in self._weights().items():
            value.copy_(self._means[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model its average weights in this block."""
        own = {name: value.detach().clone() for name, value in self._weights().items()}
        self.put_in_place()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self._weights().items():
                    value.copy_(own[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average so far."""
        means = {_WEIGHT + name: value for name, value in self._means.items()}
        return {_COUNT: torch.tensor(self._count), **means}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._count = int(state_dict[_COUNT])
        weights = self._weights()
        self._means = {
            name: divided_like(state_dict[_WEIGHT + name].to(value.device), value)
            for name, value in weights.items()
            if _WEIGHT + name in state_dict
        }

    def _weights(self) -> dict[str, nn.Parameter]:
        return {
            name: value for name, value in self._module.named_parameters() if value.requires_grad
        }
