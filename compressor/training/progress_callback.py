"""Follows a training run step by step, so that it is seen and can be stopped at any moment."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.optim import Optimizer

from compressor.errors import StepFailed
from compressor.progress import Advance
from compressor.training.averaging import WeightAverage
from compressor.training.checkpoints import Pace, State, StateFile
from compressor.training.scores import PlateauRate, Scores
from compressor.training.sharding import own_part
from compressor.training.snapshot import (
    Snapshot,
    Stateful,
    divided_for,
    load_module_tensors,
    module_tensors,
)
from compressor.training.training_run import (
    AfterStep,
    TrainingDiverged,
    TrainingRun,
    TrainingSummary,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingFiles:
    """What the run that `key` names leaves in its folder: how far it is, in the end its result."""

    folder: Path
    key: str

    @property
    def checkpoint(self) -> StateFile:
        """Return the file of a run under way."""
        return StateFile(self.folder / "training.safetensors", self.key)

    @property
    def finished(self) -> StateFile:
        """Return the file of a finished run."""
        return StateFile(self.folder / "trained.safetensors", self.key)

    def finished_before(
        self, module: nn.Module, kept: Mapping[str, Stateful]
    ) -> TrainingSummary | None:
        """Make everything as it was when this run finished, or return None when it did not."""
        finished = self.finished.read()
        if finished is None:
            return None
        load_module_tensors(module, kept, finished.tensors)
        return TrainingSummary(**finished.facts)

    def finish(
        self, module: nn.Module, kept: Mapping[str, Stateful], summary: TrainingSummary
    ) -> None:
        """Keep the result, and the way there no longer.

        Until the result is whole, all that this run would begin from again stays.
        """
        self.finished.write(State(module_tensors(module, kept), asdict(summary)))
        self.checkpoint.remove()


class StepWatcher(transformers.TrainerCallback):
    """Follows the optimizer steps: progress, losses, checkpoints, and what the caller does."""

    def __init__(
        self,
        checkpoint: StateFile,
        run: TrainingRun,
        advance: Advance,
        after_step: AfterStep | None,
        kept: Mapping[str, Stateful],
        scores: Scores | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        own = {"scores": scores, "weight_average": average}
        self.scores, self.average = scores, average
        self.plateau: PlateauRate | None = None
        self.checkpoint = checkpoint
        self.run = run
        self.advance = advance
        self.after_step = after_step
        self.kept = {**kept, **{name: part for name, part in own.items() if part is not None}}
        self.team = run.team
        self.resumed = self.team.from_leader(checkpoint.read() if self.team.leads else None)
        facts = {} if self.resumed is None else self.resumed.facts
        self.losses: list[float] = facts.get("losses", [])
        self.seconds_before: float = facts.get("seconds", 0.0)
        self.first_step = len(self.losses)
        self.started = time.monotonic()
        self.pace = Pace(run.checkpoint_seconds)

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Go on where an earlier process was, if there was one."""
        if self.resumed is None:
            return
        logger.info("%s: resumes after step %d", self.run.description, self.first_step)
        self._snapshot(kwargs).put_back(self.resumed)
        state.global_step = self.first_step
        self.resumed = None
        self.advance(self.first_step, f"loss {self.losses[-1]:.4f}")

    def on_step_end(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Let the caller do its part, and keep scores and a checkpoint now and then."""
        if self.after_step is not None:
            try:
                self.after_step(state.global_step, state.max_steps)
            except StepFailed:
                # Where weights are not finite, that is the reason, and not what came of it.
                self.require_finite(kwargs["model"], kwargs["optimizer"])
                raise
        if self.average is not None:
            self.average.update()
        words = f"loss {self.losses[-1]:.4f}"
        if self.scores is not None and self.scores.due(state.global_step, state.max_steps):
            words += f", score {self._score(state.global_step, kwargs):.4f}"
            control.should_training_stop |= self.scores.stops
        is_last = state.global_step >= state.max_steps or control.should_training_stop
        if not is_last and self._is_due():
            self.pace.keep(lambda: self._write(self._snapshot(kwargs)))
        left = state.max_steps - state.global_step if control.should_training_stop else 0
        self.advance(1 + left, words)

    def _is_due(self) -> bool:
        """Return whether the first process finds that it is time for a checkpoint."""
        is_due = self.team.leads and self.pace.due()
        return bool(self.team.total(torch.tensor(int(is_due))))

    def _score(self, step: int, given: Mapping[str, Any]) -> float:
        """Score the model with the weights that it would end with, and let the rate follow."""
        assert self.scores is not None, "the caller asked"
        module = given["model"]
        try:
            with nullcontext() if self.average is None else self.average.in_place():
                found = self.scores.take(step, module)
        except FloatingPointError as error:
            self.require_finite(module, given["optimizer"])
            raise StepFailed(f"{error} at step {step}") from error
        if self.plateau is not None:
            self.plateau.note(found)
            rates, groups = given["lr_scheduler"], given["optimizer"].param_groups
            for group, highest in zip(groups, rates.base_lrs, strict=True):
                group["lr"] = highest * self.plateau(rates.last_epoch)
        return found

    def put_result_in_place(self, module: nn.Module) -> None:
        """Give the model the weights that its training ends with."""
        if self.scores is not None and self.scores.best_weights:
            module.load_state_dict(divided_for(self.scores.best_weights, module))
        elif self.average is not None:
            self.average.put_in_place()

    def require_finite(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Raise `TrainingDiverged` when a weight is not finite.

        A finite loss can have gradients that are not.
        """
        finite = all(torch.isfinite(own_part(value)).all() for value in module.parameters())
        if self.team.launch.sharded:  # where each process sees its own part of them
            finite = not self.team.total(torch.tensor(int(not finite)))
        if finite:
            return
        raise TrainingDiverged(
            "the weights are not finite",
            step=len(self.losses),
            loss=self.losses[-1],
            learning_rate=optimizer.param_groups[0]["lr"],
        )

    def summary(self) -> TrainingSummary:
        """Return what was done so far, in this process and before."""
        last = self.losses[-math.ceil(len(self.losses) / 10) :]
        scores = "" if self.scores is None else self.scores.words()
        mean = sum(last) / len(last)
        return TrainingSummary(len(self.losses), self._seconds(), mean, scores)

    def _snapshot(self, given: Mapping[str, Any]) -> Snapshot:
        return Snapshot(
            given["model"], given["optimizer"], given["lr_scheduler"], self.kept, self.run.device
        )

    def _write(self, snapshot: Snapshot) -> None:
        state = snapshot.take()
        if not self.team.leads:
            return
        own = {"losses": self.losses, "seconds": self._seconds()}
        self.checkpoint.write(State(state.tensors, {**state.facts, **own}))

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started
