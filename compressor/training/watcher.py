"""Follows a training run step by step, so that it is seen and can be stopped at any moment."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from compressor.progress import Advance
from compressor.training.checkpoints import Pace, State, StateFile
from compressor.training.moments import Moments
from compressor.training.run import AfterStep, TrainingRun, TrainingSummary
from compressor.training.snapshot import Snapshot, Stateful

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingFiles:
    """What a training run leaves in its folder: how far it is, and in the end its result."""

    checkpoint: StateFile
    finished: StateFile

    @classmethod
    def of(cls, folder: Path, key: str) -> TrainingFiles:
        """Return the files in `folder` of the run that `key` names."""
        return cls(
            StateFile(folder / "training.safetensors", key),
            StateFile(folder / "trained.safetensors", key),
        )

    def finish(self, result: State) -> None:
        """Keep the result, and the way there no longer."""
        self.finished.write(result)
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
        moments: Moments | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.moments = moments
        self.run = run
        self.advance = advance
        self.after_step = after_step
        self.kept = kept
        self.resumed = checkpoint.read()
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
            if self.moments is not None:
                self.moments.put(kwargs["optimizer"], kwargs["model"])
            return
        logger.info("%s: goes on after step %d", self.run.description, self.first_step)
        self._snapshot(kwargs).put_back(self.resumed)
        state.global_step = self.first_step
        self.resumed = None
        self.advance(self.first_step, f"loss {self.losses[-1]:.4f}")

    def on_step_end(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Let the caller do its part, and keep a checkpoint now and then."""
        if self.after_step is not None:
            self.after_step(state.global_step, state.max_steps)
        if state.global_step < state.max_steps and self.pace.due():
            self.pace.keep(lambda: self._write(self._snapshot(kwargs)))
        self.advance(1, f"loss {self.losses[-1]:.4f}")

    def summary(self) -> TrainingSummary:
        """Return what was done so far, in this process and before."""
        last = self.losses[-math.ceil(len(self.losses) / 10) :]
        return TrainingSummary(len(self.losses), self._seconds(), sum(last) / len(last))

    def _snapshot(self, given: Mapping[str, Any]) -> Snapshot:
        return Snapshot(
            given["model"], given["optimizer"], given["lr_scheduler"], self.kept, self.run.device
        )

    def _write(self, snapshot: Snapshot) -> None:
        state = snapshot.take()
        own = {"losses": self.losses, "seconds": self._seconds()}
        self.checkpoint.write(State(state.tensors, {**state.facts, **own}))

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started
