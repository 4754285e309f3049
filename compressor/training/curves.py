"""Writes the curves of a training run for TensorBoard, MLflow and Weights & Biases.

None of these packages is imported unless a recipe asks for it: each takes a second or more, and all
are extras. Where MLflow and Weights & Biases write to is what their own variables of the
environment say, such as MLFLOW_TRACKING_URI and WANDB_MODE.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from compressor.errors import EnvironmentMismatch
from compressor.training.scores import Scores
from compressor.training.settings import PLACES, TrainingSettings

_PROJECT = "compressor"  # where neither the recipe nor the environment names one
_KEY = "compressor.training"  # the tag of an MLflow run by which a training finds its own again
_SECONDS_BETWEEN_SENDINGS = 5.0

Record = Callable[[str, float, int], None]  # takes a name, a value and the number of its step


@dataclass(frozen=True)
class Tracked:
    """The training run that is written about.

    `losses` are those of all steps, and grow; a run that goes on has those of the steps before.
    `key` is its own alone, and the same when it goes on.
    """

    settings: TrainingSettings
    description: str
    key: str
    losses: Sequence[float]
    scores: Scores | None

    @property
    def name(self) -> str:
        """Return a name that no other training has."""
        return f"{self.description} {self.key[:8]}"

    def parameters(self) -> dict[str, object]:
        """Return the settings by name, without folders of this machine."""
        return self.settings.model_dump(mode="json", exclude=set(PLACES))


@contextmanager
def curves(tracked: Tracked | None) -> Iterator[list[transformers.TrainerCallback]]:
    """Yield what writes loss, learning rate and scores while a block lasts; none where none does.

    None writes nothing: of several processes the first one writes alone.

    Raises `EnvironmentMismatch` when a tracker cannot be reached.
    """
    if tracked is None:
        yield []
        return
    settings = tracked.settings
    with ExitStack() as stack:
        records: list[Record] = []
        if settings.tensorboard is not None:
            records.append(stack.enter_context(_tensorboard(settings.tensorboard, tracked)))
        for tracker in settings.track:
            records.append(stack.enter_context(_TRACKERS[tracker](tracked)))
        yield [_CurveWriter(records, tracked)] if records else []


class _CurveWriter(transformers.TrainerCallback):
    def __init__(self, records: Sequence[Record], tracked: Tracked) -> None:
        self.records = records
        self.tracked = tracked

    def on_optimizer_step(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        # The step is taken but not counted yet, and the learning rate is still the one it had.
        step = state.global_step + 1
        self.record("loss", self.tracked.losses[-1], step)
        self.record("learning_rate", kwargs["optimizer"].param_groups[0]["lr"], step)

    def on_step_end(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        # What follows the steps is called before this, and has scored the model by now.
        scores = self.tracked.scores
        if scores is not None and scores.taken and scores.taken[-1][0] == state.global_step:
            self.record("score", scores.taken[-1][1], state.global_step)

    def record(self, name: str, value: float, step: int) -> None:
        for each in self.records:
            each(name, value, step)


@contextmanager
def _tensorboard(folder: Path, tracked: Tracked) -> Iterator[Record]:
    """Yield what writes event files, into a folder of this training alone below `folder`.

    A run that goes on begins after its losses so far, and TensorBoard then leaves out what a killed
    process wrote of later steps.
    """
    from torch.utils.tensorboard import SummaryWriter

    own = folder / re.sub(r"[^a-z0-9]+", "-", tracked.name.lower()).strip("-")
    with SummaryWriter(log_dir=str(own), purge_step=len(tracked.losses) + 1) as writer:
        yield writer.add_scalar


@contextmanager
def _mlflow(tracked: Tracked) -> Iterator[Record]:
    """Yield what writes to MLflow, into the run of this training, by the package's own client."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    project = tracked.settings.track_project or os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    waiting: list[Metric] = []
    sent = time.monotonic()
    try:
        client = MlflowClient()
        experiment = client.get_experiment_by_name(project)
        number = client.create_experiment(project) if experiment is None else None
        own = number if experiment is None else experiment.experiment_id
        found = client.search_runs([own], f"tags.`{_KEY}` = '{tracked.key}'")
        if found:
            run_id = found[0].info.run_id
            client.update_run(run_id, status="RUNNING")
        else:
            tags = {_KEY: tracked.key}
            run_id = client.create_run(own, run_name=tracked.name, tags=tags).info.run_id
            parameters = [Param(name, str(value)) for name, value in tracked.parameters().items()]
            client.log_batch(run_id, params=parameters)

        def send() -> None:
            nonlocal sent
            client.log_batch(run_id, metrics=waiting)
            waiting.clear()
            sent = time.monotonic()

        def record(name: str, value: float, step: int) -> None:
            waiting.append(Metric(name, value, int(time.time() * 1000), step))
            if time.monotonic() - sent > _SECONDS_BETWEEN_SENDINGS or len(waiting) >= 500:
                send()

        try:
            yield record
        except BaseException:
            with suppress(MlflowException):  # the failure of the training is what is told
                send()
                client.set_terminated(run_id, "FAILED")
            raise
        send()
        client.set_terminated(run_id, "FINISHED")
    except MlflowException as error:
        raise _unreached(
            "mlflow", error, "look whether MLFLOW_TRACKING_URI names a server that answers"
        ) from error


@contextmanager
def _wandb(tracked: Tracked) -> Iterator[Record]:
    """Yield what writes to Weights & Biases, into the run of this training."""
    import wandb

    project = tracked.settings.track_project or os.environ.get("WANDB_PROJECT", _PROJECT)
    try:
        run = wandb.init(
            project=project,
            name=tracked.name,
            id=tracked.key[:32],
            resume="allow",  # a training that goes on
            config=tracked.parameters(),
            reinit="create_new",  # whatever run a program around this one has
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        raise _unreached(
            "wandb", error, "call `wandb login`, or set WANDB_MODE to offline"
        ) from error
    exit_code = 1
    try:
        yield lambda name, value, step: run.log({name: value}, step=step)
        exit_code = 0
    finally:
        run.finish(exit_code=exit_code)


_TRACKERS: Mapping[str, Any] = {"mlflow": _mlflow, "wandb": _wandb}


def _unreached(tracker: str, error: Exception, advice: str) -> EnvironmentMismatch:
    return EnvironmentMismatch(
        f"track: {tracker} could not be written to ({error}); {advice}, or leave '{tracker}' out "
        f"of track"
    )
