"""The work of `prune_magnitude`."""

from __future__ import annotations

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, PassContext
from compressor.passes.lent_run import lent_run
from compressor.passes.prune_magnitude.masks import (
    MaskedParameters,
    global_magnitude_masks,
    layer_magnitude_masks,
    prunable_weights,
)
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.training.recovery import check_finetuning, finetune
from compressor.training.schedules import gradual_pruning
from compressor.training.together import in_all_processes
from compressor.training.training_run import AfterStep, TrainingRun, TrainingSummary

# The rest of the steps trains the weights that stay.
_DEFAULT_RAMP_RATIO = 0.7


def look_ahead(settings: PruneMagnitude, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for the encoder, and at the training."""
    prunable_weights(model.module, include_embeddings=settings.include_embeddings)
    if settings.finetune is not None and ahead.train is not None:
        check_finetuning(model, ahead.train, settings.finetune)
    return model


def apply(settings: PruneMagnitude, model: TorchModel, context: PassContext) -> TorchModel:
    """Put weights of `model` to zero, in place.

    Raises `StepFailed` when weights are not finite or the encoder cannot be found, and with
    `finetune` when the training split has no labels.
    """
    if settings.finetune is None:
        held, _ = _masks(settings, model)
    else:
        run = lent_run(context, settings.kind)
        held, summary = in_all_processes(run, train_pruned, settings, model, context.train, run)
        context.note(summary.sentence())
    _note_zeros(context, held.zeros(), model.parameter_counts())
    return model


def train_pruned(
    settings: PruneMagnitude, model: TorchModel, dataset: Dataset, run: TrainingRun
) -> tuple[MaskedParameters, TrainingSummary]:
    """Train `model` in place while weights are put to zero; return which, and what was done."""
    assert settings.finetune is not None, "the caller asked"
    held, after_step = _masks(settings, model)
    summary = finetune(
        model,
        dataset,
        settings.finetune,
        run,
        after_step=after_step,
        goal=settings.model_dump(mode="json", exclude={"finetune"}),
        kept={"masks": held},
    )
    return held, summary


def _masks(settings: PruneMagnitude, model: TorchModel) -> tuple[MaskedParameters, AfterStep]:
    """Return what keeps weights at zero, and what does so after each step of a training.

    Without a schedule they are put to zero now.
    """
    held = MaskedParameters(
        prunable_weights(model.module, include_embeddings=settings.include_embeddings)
    )
    masks_for = global_magnitude_masks if settings.scope == "global" else layer_magnitude_masks

    def prune_to(sparsity: float) -> None:
        held.set_masks(masks_for(held.parameters, sparsity))

    if settings.schedule == "cubic":
        after_step = gradual_pruning(
            prune_to,
            held.hold,
            sparsity=settings.sparsity,
            ramp_ratio=settings.ramp_ratio or _DEFAULT_RAMP_RATIO,
        )
    else:
        prune_to(settings.sparsity)

        def after_step(step: int, total: int) -> None:  # noqa: ARG001
            held.hold()

    return held, after_step


def _note_zeros(context: PassContext, covered: tuple[int, int], model: tuple[int, int]) -> None:
    zeros, weights = covered
    total, nonzero = model
    context.note(
        f"{zeros:,} of {weights:,} weights of the encoder are zero ({zeros / weights:.1%}), "
        f"{total - nonzero:,} of all {total:,} parameters ({1 - nonzero / total:.1%})"
    )
    context.note(
        "zeros make the compressed file smaller, not inference faster: a dense runtime such as "
        "ONNX Runtime multiplies by them like by any other number"
    )
