"""Fine-tuning and distillation as functions, for the passes of those names and for recovery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.batches import TrainingBatch
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.layers import LayerMap
from compressor.training.losses import (
    attention_loss,
    hidden_state_loss,
    logits_kl,
    mean_of_pairs,
    task_loss,
)
from compressor.training.run import AfterStep, LossFunction, TrainingRun, TrainingSummary
from compressor.training.settings import DistillSettings, FinetuneSettings
from compressor.training.snapshot import Stateful
from compressor.training.teacher import (
    TeacherLogits,
    attention_maps_in,
    check_inputs,
    check_labels,
    check_layers,
)
from compressor.training.trainer import require_examples, train


def finetune(
    model: TorchModel,
    dataset: Dataset,
    settings: FinetuneSettings,
    run: TrainingRun,
    *,
    after_step: AfterStep | None = None,
    goal: Mapping[str, Any] | None = None,
    kept: Mapping[str, Stateful] | None = None,
) -> TrainingSummary:
    """Train `model` in place on the labels of `dataset`.

    What `after_step` does is told by `goal`, what it remembers is in `kept`: see `train`.

    Raises `ValueError` when there are no labels, and what `train` raises.
    """
    _require_labels(dataset, "fine-tuning")

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        return task_loss(module(**batch.inputs).logits, batch.labels)

    return train(
        model,
        dataset,
        settings,
        run,
        loss=loss,
        goal={"loss": "labels", **(goal or {})},
        after_step=after_step,
        kept=kept,
    )


def distill(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    run: TrainingRun,
    *,
    layer_map: LayerMap | None = None,
) -> TrainingSummary:
    """Train `model` in place towards `teacher`, whose weights stay and which moves to `run.device`.

    `layer_map` holds pairs (student layer, teacher layer), both counted from 0, for the losses on
    hidden states and attention; by default they are spread evenly. The output of the embeddings is
    always compared with the teacher's.

    Raises `ValueError` before training when the teacher cannot teach this model: other labels, and
    for the losses on hidden states or attention another vocabulary, another width, or layers
    without attention maps. Also raises what `train` raises.
    """
    require_examples(dataset)
    check_labels(model, teacher)
    if settings.label_weight > 0:
        _require_labels(dataset, "distillation with label_weight above 0")
    teacher.module.to(run.device).eval()
    goal: dict[str, Any] = {"teacher": digest_of_tensors(teacher.module.state_dict())}
    if settings.hidden_weight == 0 and settings.attention_weight == 0:
        answers = TeacherLogits(teacher, dataset)
        loss = _logits_loss(answers, settings)
        # Not computed again in other batches, where they would differ in the last bits.
        kept = {"teacher_logits": answers}
        return train(model, dataset, settings, run, loss=loss, goal=goal, kept=kept)
    check_inputs(model, teacher, dataset)
    with attention_maps_in(model, teacher, wanted=settings.attention_weight > 0):
        pairs = check_layers(model, teacher, dataset, settings, layer_map)
        goal["layers"] = [list(pair) for pair in pairs]
        loss = _layers_loss(teacher, settings, pairs)
        return train(model, dataset, settings, run, loss=loss, goal=goal)


def _logits_loss(teacher_logits: TeacherLogits, settings: DistillSettings) -> LossFunction:
    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        logits = module(**batch.inputs).logits
        return _loss_on_logits(logits, teacher_logits(batch.rows), batch.labels, settings)

    return loss


def _layers_loss(teacher: TorchModel, settings: DistillSettings, pairs: LayerMap) -> LossFunction:
    wanted = {
        "output_hidden_states": settings.hidden_weight > 0,
        "output_attentions": settings.attention_weight > 0,
    }

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        student = module(**batch.inputs, **wanted)
        with torch.no_grad():  # not inference_mode: autograd has to keep these tensors
            target = teacher.module(**batch.inputs, **wanted)
        total = _loss_on_logits(student.logits, target.logits, batch.labels, settings)
        if settings.hidden_weight > 0:
            # hidden_states[0] is the output of the embeddings, layer i gives hidden_states[i + 1].
            states = [(0, 0), *((own + 1, other + 1) for own, other in pairs)]
            total = total + settings.hidden_weight * mean_of_pairs(
                hidden_state_loss(
                    student.hidden_states[own], target.hidden_states[other], batch.mask
                )
                for own, other in states
            )
        if settings.attention_weight > 0:
            total = total + settings.attention_weight * mean_of_pairs(
                attention_loss(student.attentions[own], target.attentions[other], batch.mask)
                for own, other in pairs
            )
        return total

    return loss


def _loss_on_logits(
    student: Tensor, teacher: Tensor, labels: Tensor, settings: DistillSettings
) -> Tensor:
    total = settings.logits_weight * logits_kl(student, teacher, settings.temperature)
    if settings.label_weight > 0:
        total = total + settings.label_weight * task_loss(student, labels)
    return total


def _require_labels(dataset: Dataset, purpose: str) -> None:
    if dataset.labels is None:
        raise ValueError(
            f"{dataset.source}: {purpose} needs labels, and the split '{dataset.name}' has none; "
            f"name the label column in data.label, or distill with label_weight: 0"
        )
