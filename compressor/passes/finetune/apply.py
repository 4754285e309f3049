"""The work of `finetune`."""

from __future__ import annotations

from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, PassContext
from compressor.passes.finetune.settings import Finetune
from compressor.passes.lent_run import lent_run
from compressor.training.recovery import check_finetuning, finetune
from compressor.training.together import in_all_processes


def look_ahead(settings: Finetune, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look at the labels, and for embeddings where they are to be frozen."""
    if ahead.train is not None:
        check_finetuning(model, ahead.train, settings)
    return model


def apply(settings: Finetune, model: TorchModel, context: PassContext) -> TorchModel:
    """Train `model` in place; raises `StepFailed` when the training split has no labels."""
    run = lent_run(context, settings.kind)
    summary = in_all_processes(run, finetune, model, context.train, settings, run)
    context.note(summary.sentence())
    return model
