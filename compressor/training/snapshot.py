"""Saves and restores the whole state of a training run: weights, optimizer state, generators.

That is the weights, the optimizer's moments, the learning rate's schedule, the generators that
dropout draws from, and what the loss or the caller keeps from step to step. The order of the
batches follows from the seed and the step.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from compressor.training.checkpoints import State
from compressor.training.sharding import divided_like, whole_tensor

_MODEL = "model."
_OPTIMIZER = "optimizer."
_KEPT = "kept."
_TORCH = "random.torch"
_CUDA = "random.cuda"
_NUMPY = "random.numpy"


class Stateful(Protocol):
    """Something that changes while training runs and is not part of the model."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return its state by name."""

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> object:
        """Become what `state_dict` said."""


@dataclass(frozen=True)
class Snapshot:
    """The parts of a training run under way; `kept` is what loss and caller keep, by name."""

    module: nn.Module
    optimizer: Optimizer  # or the wrapper that accelerate makes
    scheduler: LRScheduler
    kept: Mapping[str, Stateful]
    device: torch.device

    def take(self) -> State:
        """Return copies of everything, on the CPU."""
        tensors = module_tensors(self.module, self.kept)
        names = self._parameter_names()
        numbers: dict[str, float] = {}  # Adafactor counts steps in whole numbers
        for index, values in self.optimizer.state_dict()["state"].items():
            for kind, value in values.items():
                name = f"{_OPTIMIZER}{names[index]}/{kind}"
                if isinstance(value, Tensor):
                    tensors[name] = _copy(value)
                elif value is not None:  # SGD without momentum
                    numbers[name] = value
        numpy_state = np.random.get_state(legacy=False)
        keys = numpy_state["state"]["key"]
        tensors[_TORCH] = torch.get_rng_state()
        tensors[_NUMPY] = torch.from_numpy(keys.astype(np.int64))
        if self.device.type == "cuda":
            tensors[_CUDA] = torch.cuda.get_rng_state(self.device)
        facts = {
            "groups": [
                {name: value for name, value in group.items() if name != "params"}
                for group in self.optimizer.state_dict()["param_groups"]
            ],
            "numbers": numbers,
            "scheduler": self.scheduler.state_dict(),
            "python": random.getstate(),
            "numpy": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
        }
        return State(tensors, facts)

    def put_back(self, state: State) -> None:
        """Make everything as it was when `take` returned `state`."""
        load_module_tensors(self.module, self.kept, state.tensors)
        found = self.optimizer.state_dict()
        groups = [
            {**now, **before}
            for now, before in zip(found["param_groups"], state.facts["groups"], strict=True)
        ]
        parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        moments: dict[int, dict[str, Tensor | float]] = {}
        index_of = {name: index for index, name in self._parameter_names().items()}
        for name, value in (*state.tensors.items(), *state.facts["numbers"].items()):
            if name.startswith(_OPTIMIZER):
                parameter, _, kind = name.removeprefix(_OPTIMIZER).rpartition("/")
                index = index_of[parameter]
                if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                    value = divided_like(value, parameters[index])
                moments.setdefault(index, {})[kind] = value
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.scheduler.load_state_dict(state.facts["scheduler"])
        self._put_random_states_back(state)

    def _parameter_names(self) -> dict[int, str]:
        """Return the names of everything that is trained by its number in the optimizer's state."""
        names = parameter_names(self.optimizer, self.module)
        for owner, something in self.kept.items():
            if isinstance(something, nn.Module):
                own = parameter_names(self.optimizer, something)
                names |= {index: f"{_KEPT}{owner}/{name}" for index, name in own.items()}
        return names

    def _put_random_states_back(self, state: State) -> None:
        version, numbers, gauss = state.facts["python"]
        random.setstate((version, tuple(numbers), gauss))
        keys = state.tensors[_NUMPY].numpy().astype(np.uint32)
        position, has_gauss, cached_gaussian = state.facts["numpy"]
        np.random.set_state(("MT19937", keys, position, has_gauss, cached_gaussian))
        torch.set_rng_state(state.tensors[_TORCH])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state.tensors[_CUDA], self.device)


def parameter_names(optimizer: Optimizer, module: nn.Module) -> dict[int, str]:
    """Return the names of a module's parameters by their number in the optimizer's state."""
    names = {id(value): name for name, value in module.named_parameters()}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    return {
        index: names[id(parameter)]
        for index, parameter in enumerate(parameters)
        if id(parameter) in names
    }


def module_tensors(module: nn.Module, kept: Mapping[str, Stateful]) -> dict[str, Tensor]:
    """Return copies of a module's weights and buffers and of what is kept, under one set of names.

    Copies share no memory, which safetensors refuses.
    """
    tensors = {_MODEL + name: _copy(value) for name, value in module.state_dict().items()}
    for owner, something in kept.items():
        for name, value in something.state_dict().items():
            tensors[f"{_KEPT}{owner}/{name}"] = _copy(value)
    return tensors


def load_module_tensors(
    module: nn.Module, kept: Mapping[str, Stateful], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `module_tensors` returned."""
    module.load_state_dict(divided_for(_below(_MODEL, tensors), module))
    for owner, something in kept.items():
        own = _below(f"{_KEPT}{owner}/", tensors)
        if isinstance(something, nn.Module):
            own = divided_for(own, something)
        something.load_state_dict(own)


def divided_for(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return whole tensors divided as those of `module`; each process has to ask."""
    """Return tensors divided among processes as those of `module` are, where they are."""
    own = module.state_dict()
    return {name: divided_like(value, own.get(name, value)) for name, value in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _copy(value: Tensor) -> Tensor:
    return whole_tensor(value.detach()).cpu().clone().contiguous()
