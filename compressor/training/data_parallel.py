"""Training in several processes: each reads its rows of a batch, and gradients are added up.

What a step computes does not depend on how many processes there are: each loss is a sum over the
rows of a process over what is counted in all of them, see `TrainingBatch.mean`, so that the sum of
gradients is the gradient of the whole batch. Only what is drawn while a model computes, such as by
dropout, is drawn for the rows of each process.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.machine.team import Team
from compressor.models.torch_model import TorchModel
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.settings import TrainingSettings
from compressor.training.training_run import TrainingRun


class Replica(DistributedDataParallel):
    """A module whose gradients are averaged over processes; it is read like the module itself."""

    def __getattr__(self, name: str) -> Any:
        """Return what the replica has, or else what the module has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def replica_of(module: nn.Module, device: torch.device) -> Replica:
    """Return the replica of this process; all of them begin with the weights of the first."""
    return Replica(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        # Such as a pooler that no loss reads, or layers that are left out by chance.
        find_unused_parameters=True,
    )


@contextmanager
def only_last_exchanges(module: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Keep a replica's gradients to this process, in this block, unless a step ends with it."""
    if is_last or not isinstance(module, Replica):
        yield
        return
    with module.no_sync():
        yield


def added_up(modules: nn.Module, team: Team) -> None:
    """Average the gradients of what is trained beside a model over processes."""
    for parameter in modules.parameters():
        if parameter.grad is not None:
            parameter.grad.copy_(team.total(parameter.grad) / team.size)


def draws_of_step(run: TrainingRun, step: int) -> None:
    """Seed what this process draws in a step, so that a checkpoint need not hold it.

    Processes that a model is divided among draw alike: each layer that is left out by chance has to
    be left out in all of them.
    """
    rank = 0 if run.team.launch.sharded else run.team.rank
    text = f"{run.seed} {step} {rank}"
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def require_own_rows(model: TorchModel, settings: TrainingSettings, team: Team) -> None:
    """Raise `StepFailed` for a model whose examples touch each other, unless a batch is whole.

    Batch normalization takes means over a batch while it trains: a process, or a part of a step,
    would take those of its own rows, and a layer that is computed twice would count them twice.
    """
    if not settings.dropout or not any(isinstance(it, _BatchNorm) for it in model.module.modules()):
        return
    kind = f"a model of type '{model.module.config.model_type}' has batch normalization, which"
    if not team.is_alone:
        raise StepFailed(
            f"{kind} several processes would each do over their own rows; set dropout to false, "
            f"which keeps the checkpoint's means, or train in one process"
        )
    if settings.accumulation_steps > 1:
        raise StepFailed(
            f"accumulation_steps: {kind} each part of a batch would do over its own rows; set it "
            f"to 1 and take a smaller batch_size, or set dropout to false, which keeps the "
            f"checkpoint's means"
        )
    if settings.gradient_checkpointing:
        raise StepFailed(
            f"gradient_checkpointing: {kind} would count each batch twice in its means; leave it "
            f"out and take a smaller batch_size to save memory"
        )


def require_same_weights(module: nn.Module, team: Team) -> None:
    """Raise `EnvironmentMismatch` where processes ended with different weights."""
    if not team.all_agree(digest_of_tensors(module.state_dict())):
        raise EnvironmentMismatch(
            "the processes ended with different weights, although each step gave all of them the "
            "same gradients: their machines compute in different ways; use machines of one kind"
        )
