"""What the pipeline lends the training in a pass; apart from `base.py` because it needs torch."""

from __future__ import annotations

from compressor.machine.team import team
from compressor.passes.base import PassContext
from compressor.training.training_run import TrainingRun


def lent_run(context: PassContext, description: str) -> TrainingRun:
    """Return where and how a training in this pass happens, called `description` in progress."""
    return TrainingRun(
        context.device,
        context.seed,
        context.work_dir,
        context.progress,
        description,
        scorer=context.scorer,
        team=team(),
    )
