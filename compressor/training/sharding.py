"""Divides a model and the state of its optimizer among processes for the length of a training.

That is FSDP2, `torch.distributed.fsdp.fully_shard`: each process keeps a part of every parameter,
and layers are gathered one by one while they compute. Afterwards the module is what it was, whole
and without a trace of it, because passes go on with it and every checkpoint is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from compressor.errors import StepFailed
from compressor.machine.team import Team

# What hooks of a module are kept in; a handle that removes one holds on to the mapping itself.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def require_divisible(team: Team, *, has_after_step: bool, precision: str, optimizer: str) -> None:
    """Raise `StepFailed` for a training that needs the whole model at once, where it is divided."""
    if not team.launch.sharded:
        return
    reason = None
    if has_after_step:
        reason = "weights are pruned or rounded between its steps"
    elif precision == "float16":
        reason = "float16 scales the loss by gradients of all of it; bfloat16 does not"
    elif optimizer == "adafactor":
        reason = "adafactor keeps means over rows and columns of whole matrices"
    if reason is not None:
        raise StepFailed(
            f"FSDP divides a model among processes, and this training needs the whole of it: "
            f"{reason}; start the processes without FSDP (ACCELERATE_USE_FSDP), or change that"
        )


@contextmanager
def divided(modules: nn.ModuleList, team: Team, device: torch.device) -> Iterator[None]:
    """Divide the parameters of modules among processes, in this block, where that is asked for.

    Afterwards every process has all of them, with the values that they then have.
    """
    if not team.launch.sharded:
        yield
        return
    mesh = init_device_mesh(device.type, (team.size,))
    before = [_Whole.of(module) for module in modules]
    for module in modules:
        _divide(module, mesh, reshards=team.launch.reshards)
    yield
    for module, whole in zip(modules, before, strict=True):
        whole.put_back(module)


def _divide(module: nn.Module, mesh: DeviceMesh, *, reshards: bool) -> None:
    for layer in _layers(module):
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshards)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def _layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers that are gathered one by one, those of the largest list of them."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part) > 1]
    if not lists:
        return []
    longest: nn.ModuleList = max(lists, key=_numel)
    largest = list(longest)
    inside = [set(map(id, layer.parameters())) for layer in largest]
    alone = sum(map(len, inside)) == len(set().union(*inside))
    others = {
        id(value)
        for part in module.modules()
        if not any(part is own for layer in largest for own in layer.modules())
        for value in part.parameters(recurse=False)
    }
    # A parameter that two of them share cannot belong to both.
    return largest if alone and not others & set().union(*inside) else []


def _numel(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@dataclass(frozen=True)
class _Whole:
    """What a module was before it was divided, but for the values of its parameters."""

    kinds: Mapping[nn.Module, type[nn.Module]]
    attributes: Mapping[nn.Module, frozenset[str]]
    hooks: Mapping[nn.Module, Mapping[str, dict[Any, Any]]]
    names: list[list[tuple[nn.Module, str]]]  # of each parameter, which may have several

    @classmethod
    def of(cls, module: nn.Module) -> _Whole:
        parts = list(module.modules())
        names: dict[int, list[tuple[nn.Module, str]]] = {}
        for part in parts:
            for name, value in part.named_parameters(recurse=False, remove_duplicate=False):
                names.setdefault(id(value), []).append((part, name))
        return cls(
            {part: type(part) for part in parts},
            {part: frozenset(vars(part)) for part in parts},
            {part: {name: dict(vars(part).get(name, {})) for name in _HOOKS} for part in parts},
            list(names.values()),
        )

    def put_back(self, module: nn.Module) -> None:
        """Make the module whole; each process has to ask."""
        for places in self.names:
            owner, name = places[0]
            value = getattr(owner, name)
            whole = nn.Parameter(whole_tensor(value.detach()), requires_grad=value.requires_grad)
            for owner, name in places:
                owner._parameters[name] = whole
        for part in module.modules():
            part.__class__ = self.kinds[part]
            for name in vars(part).keys() - self.attributes[part]:
                delattr(part, name)
            for name, hooks in self.hooks[part].items():
                found = vars(part).get(name)
                if found is not None:
                    found.clear()
                    found.update(hooks)


def whole_tensor(value: Tensor) -> Tensor:
    """Return all of a tensor, of which this process may have a part; each process has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module with all of each tensor; each process has to ask."""
    return {name: whole_tensor(value.detach()) for name, value in module.state_dict().items()}


def own_part(value: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


def divided_like(value: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor divided as `other` is; each process has to ask, and give the same."""
    if not isinstance(other, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)


def share_of(module: nn.Module, optimizer: Optimizer) -> float:
    """Return the fraction of parameters and optimizer state that this process keeps."""
    states: list[Any] = [value for state in optimizer.state.values() for value in state.values()]
    kept = [value for value in (*module.parameters(), *states) if isinstance(value, Tensor)]
    return sum(own_part(value).numel() for value in kept) / sum(value.numel() for value in kept)
