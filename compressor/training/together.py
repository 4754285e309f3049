"""Trainings that all processes of a run do together: the first sends them, the others do the same.

A training is a function of models, rows and settings that lies in a module of this package. The
first process calls it with everything it needs; the others are sent the function's name and the
same arguments, models as their structure and weights, and call it too. What they return is thrown
away, and they write nothing but into a scratch folder of their own.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from compressor.machine.memory import memory_as_mismatch
from compressor.machine.quiet import loud_libraries, quiet_libraries
from compressor.machine.team import Follower, Leader, team
from compressor.models.structure import ModelForm, form_of
from compressor.models.torch_model import TorchModel
from compressor.progress import SILENT
from compressor.tasks import Task
from compressor.training.training_run import TrainingRun

T = TypeVar("T")


def in_all_processes(run: TrainingRun, work: Callable[..., T], *arguments: object) -> T:
    """Return what `work` gives for `arguments`, done in all processes of `run` at once.

    `work` is a function of a module, and `run` is one of its arguments. Those of the other
    processes are copies, on their own devices, and show and keep nothing.

    Raises what `work` raises in this process, and where another one failed or ended, its failure.
    """
    if not isinstance(run.team, Leader):
        return work(*arguments)
    return run.team.together(run.device, _sent(work, arguments), partial(work, *arguments))


def follow(*, quiet: bool) -> NoReturn:
    """Take part in what the first process sends until it ends, and end with its exit code."""
    own = team()
    assert isinstance(own, Follower), "the caller asked"
    with quiet_libraries() if quiet else loud_libraries():
        own.follow(_do, pickle.loads)


def _do(work: tuple[str, Callable[..., object], tuple[object, ...]]) -> None:
    device, function, arguments = work
    own = team()
    assert isinstance(own, Follower), "only they are sent any"
    with memory_as_mismatch():
        own.join_group(torch.device(device))
        function(*arguments)


class _Sender(pickle.Pickler):
    """Sends a model as its structure and weights, and a run as what is common to all processes."""

    def reducer_override(self, item: object) -> Any:
        if isinstance(item, TorchModel):
            module = item.module
            weights = {name: value.cpu() for name, value in module.state_dict().items()}
            rest = (item.preprocessor, item.task.without_own_code())
            return _received_model, (item.device.type, form_of(module), weights, *rest)
        if isinstance(item, type) and "made_by" in vars(item):  # a class of a task's own
            make, base = vars(item)["made_by"]
            return make, (base,)
        if isinstance(item, TrainingRun):
            return _received_run, (item.device.type, item.seed, item.description)
        return NotImplemented


def _sent(work: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    [run] = [item for item in arguments if isinstance(item, TrainingRun)]
    stream = io.BytesIO()
    _Sender(stream).dump((run.device.type, work, arguments))
    return stream.getvalue()


def _received_model(
    device: str, form: ModelForm, weights: dict[str, Tensor], preprocessor: Any, task: Task
) -> TorchModel:
    module = form.make()
    module.load_state_dict(weights)
    model = TorchModel(module, preprocessor, task)
    model.move_to(torch.device(device))
    return model


def _received_run(device: str, seed: int, description: str) -> TrainingRun:
    own = team()
    assert isinstance(own, Follower), "only they are sent any"
    work_dir = Path(own.scratch)
    return TrainingRun(torch.device(device), seed, work_dir, SILENT, description, team=own)
