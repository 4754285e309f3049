"""Writes the curves of a training run for TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def curves(
    folder: Path | None, name: str, losses: Sequence[float]
) -> Iterator[list[transformers.TrainerCallback]]:
    """Yield what writes loss and learning rate of each step while a block lasts; none without one.

    The event files lie in a folder of their own, by the `name` of the run, which no other run may
    have. `losses` are those of
    all steps; a run that goes on starts after them, and TensorBoard then leaves out what a killed
    process wrote of later steps.
    """
    if folder is None:
        yield []
        return
    # Importing it takes a second, and the package is an extra.
    from torch.utils.tensorboard import SummaryWriter

    own = folder / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    with SummaryWriter(log_dir=str(own), purge_step=len(losses) + 1) as writer:
        yield [_CurveWriter(writer, losses)]


class _CurveWriter(transformers.TrainerCallback):
    def __init__(self, writer: SummaryWriter, losses: Sequence[float]) -> None:
        self.writer = writer
        self.losses = losses

    def on_optimizer_step(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        # The step is taken but not counted yet, and the learning rate is still the one it had.
        step = state.global_step + 1
        self.writer.add_scalar("loss", self.losses[-1], step)
        self.writer.add_scalar("learning_rate", kwargs["optimizer"].param_groups[0]["lr"], step)
