"""The work of `prune_magnitude`."""

from __future__ import annotations

from torch import nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, PassContext
from compressor.passes.lent_run import lent_run
from compressor.passes.prune_magnitude.importance import (
    MAGNITUDE,
    WeightImportance,
    activation_importance,
    information_importance,
    random_importance,
    taylor_importance,
)
from compressor.passes.prune_magnitude.masks import (
    GROUP,
    MaskedParameters,
    global_masks,
    layer_masks,
    prunable_weights,
    row_masks,
    two_of_four_masks,
)
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.prune_structured.calibration_batches import batches_of
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.recovery import check_finetuning, finetune
from compressor.training.schedules import gradual_pruning
from compressor.training.together import in_all_processes
from compressor.training.training_run import AfterStep, StepHook, TrainingRun, TrainingSummary

# The rest of the steps trains the weights that stay.
_DEFAULT_RAMP_RATIO = 0.7
_RANKED_BY = {"global": global_masks, "layer": layer_masks, "row": row_masks}


def look_ahead(settings: PruneMagnitude, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for the encoder and whether the pattern fits its matrices, and at the training."""
    _weights_to_prune(settings, model)
    if settings.finetune is not None and ahead.train is not None:
        check_finetuning(model, ahead.train, settings.finetune)
    return model


def apply(settings: PruneMagnitude, model: TorchModel, context: PassContext) -> TorchModel:
    """Put weights of `model` to zero, in place.

    Raises `StepFailed` when weights are not finite, the encoder cannot be found, the pattern does
    not fit its matrices or importance cannot be measured, and with `finetune` when the training
    split has no labels.
    """
    importance = _importance(settings, model, context)
    if settings.finetune is None:
        held, _ = _masks(settings, model, importance)
    else:
        run = lent_run(context, settings.kind)
        held, summary = in_all_processes(
            run, train_pruned, settings, model, context.train, run, importance
        )
        context.note(summary.sentence())
    _note_zeros(context, settings, held.zeros(), model.parameter_counts())
    return model


def train_pruned(
    settings: PruneMagnitude,
    model: TorchModel,
    dataset: Dataset,
    run: TrainingRun,
    importance: WeightImportance = MAGNITUDE,
) -> tuple[MaskedParameters, TrainingSummary]:
    """Train `model` in place while weights are put to zero; return which, and what was done."""
    assert settings.finetune is not None, "the caller asked"
    held, after_step = _masks(settings, model, importance)
    written = settings.settings
    facts = {name: value for name, value in written.items() if name != "finetune"}
    facts |= {"kind": settings.kind, "on_failure": settings.on_failure}
    if importance.factors:
        facts["factors"] = digest_of_tensors(importance.factors)
    hook = StepHook(after_step, facts, {"masks": held})
    summary = finetune(model, dataset, settings.finetune, run, hook=hook)
    return held, summary


def _importance(
    settings: PruneMagnitude, model: TorchModel, context: PassContext
) -> WeightImportance:
    """Return what ranks weights, measured where it is; what was counted is noted."""
    kind = settings.importance
    if kind == "magnitude":
        return MAGNITUDE
    weights = _weights_to_prune(settings, model)
    if kind == "random":
        return random_importance(weights, context.seed)
    model.move_to(context.device)
    run = lent_run(context, "measuring weights")
    found, words = in_all_processes(
        run, measured_importance, settings, model, context.calibration, run
    )
    if words is not None:
        context.note(words)
    return found


def measured_importance(
    settings: PruneMagnitude, model: TorchModel, dataset: Dataset, run: TrainingRun
) -> tuple[WeightImportance, str | None]:
    """Return what ranks weights, of which each process of `run` measures its own rows.

    With the second result words for the report, where there are any.
    """
    kind, most_rows = settings.importance, settings.calibration_rows
    if kind == "entropy" or kind == "mutual_information":
        batches = batches_of(model, dataset, most_rows, run, of_all=True)
        num_rows = min(most_rows, len(dataset))
        return information_importance(model, batches, kind, num_rows, run.seed, run.team)
    batches = batches_of(model, dataset, most_rows, run)
    if kind == "activation":
        return activation_importance(model, batches, run.team), None
    embeddings = settings.include_embeddings
    found = taylor_importance(model, batches, include_embeddings=embeddings, team=run.team)
    return found, None


def _weights_to_prune(settings: PruneMagnitude, model: TorchModel) -> dict[str, nn.Parameter]:
    """Return the weights that may go; raises `StepFailed` where a pattern does not fit them."""
    found = prunable_weights(model.module, include_embeddings=settings.include_embeddings)
    if settings.pattern is None:
        return found
    matrices = {name: weight for name, weight in found.items() if weight.dim() == 2}
    for name, weight in matrices.items():
        if weight.shape[1] % GROUP:
            raise StepFailed(
                f"pattern: {name} has {weight.shape[1]:,} inputs, which cannot be cut into groups "
                f"of {GROUP}; prune neurons in multiples of {GROUP} (round_to of "
                f"prune_structured), or leave pattern out"
            )
    return matrices


def _masks(
    settings: PruneMagnitude, model: TorchModel, importance: WeightImportance
) -> tuple[MaskedParameters, AfterStep]:
    """Return what keeps weights at zero, and what does so after each step of a training.

    Without a schedule they are put to zero now.
    """
    held = MaskedParameters(_weights_to_prune(settings, model))

    def prune_to(sparsity: float) -> None:
        scores = importance.scores(held.parameters)
        if settings.pattern is not None:
            held.set_masks(two_of_four_masks(scores))
        else:
            held.set_masks(_RANKED_BY[settings.scope](scores, sparsity))

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


def _note_zeros(
    context: PassContext,
    settings: PruneMagnitude,
    covered: tuple[int, int],
    model: tuple[int, int],
) -> None:
    zeros, weights = covered
    total, nonzero = model
    context.note(
        f"{zeros:,} of {weights:,} weights of the encoder are zero ({zeros / weights:.1%}), "
        f"{total - nonzero:,} of all {total:,} parameters ({1 - nonzero / total:.1%})"
    )
    if settings.pattern is not None:
        context.note(
            "of every four neighbouring inputs of a matrix two are zero, which sparse tensor cores "
            "of NVIDIA GPUs compute faster where a runtime asks for it; others multiply by zeros "
            "like by any other number"
        )
        return
    context.note(
        "zeros make the compressed file smaller, not inference faster: a dense runtime such as "
        "ONNX Runtime multiplies by them like by any other number"
    )
