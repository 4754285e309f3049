"""Fine-tuning and distillation as functions, for the passes of those names and for recovery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.machine.team import team
from compressor.models.torch_model import TorchModel
from compressor.training.activation_hooks import known_layers, relation_teacher
from compressor.training.augmentation import augmented, check_augmentation
from compressor.training.batches import TrainingBatch
from compressor.training.data_parallel import require_own_rows
from compressor.training.distill_settings import DistillSettings
from compressor.training.label_loss import label_loss, require_classes
from compressor.training.layer_map import LayerMap
from compressor.training.lesson import Lesson
from compressor.training.mixing import Mixer, run_mixed
from compressor.training.settings import FinetuneSettings, TrainingSettings
from compressor.training.teacher import (
    check_inputs,
    require_known_padding,
    teacher_order,
)
from compressor.training.trainer import (
    require_checkpointing,
    require_embeddings,
    require_examples,
    require_layers,
    train,
)
from compressor.training.training_run import (
    Objective,
    StepHook,
    TrainingRun,
    TrainingSummary,
)


def finetune(
    model: TorchModel,
    dataset: Dataset,
    settings: FinetuneSettings,
    run: TrainingRun,
    *,
    hook: StepHook | None = None,
) -> TrainingSummary:
    """Train `model` in place on the labels of `dataset`.

    Raises what `check_finetuning` and `train` raise.
    """
    check_finetuning(model, dataset, settings)

    task = model.task
    on_labels = label_loss(model, dataset, settings)
    alphas = settings.mixup_alpha, settings.cutmix_alpha
    mixer = Mixer(run.seed, mixup_alpha=alphas[0], cutmix_alpha=alphas[1])

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        return on_labels.of_batch(task.output_of(module(**batch.inputs)), batch)

    def loss_of_mixed(module: nn.Module, batch: TrainingBatch) -> Tensor:
        assert batch.targets is not None, "the split is checked"
        inputs = {name: batch.of_all(value) for name, value in batch.inputs.items()}
        targets, own = batch.of_all(batch.targets), batch.place
        mix = mixer.draw(inputs[model.module.main_input_name])
        outputs = task.output_of(run_mixed(module, inputs, mix, own))
        return on_labels.of_mixed(outputs, targets, batch, mix, own) * batch.label_share

    mixes = any(alphas)
    objective = Objective(
        loss_of_mixed if mixes else loss,
        {"loss": "labels"},
        cached={"mixer": mixer} if mixes else {},
        count=on_labels.count,
        told=on_labels.words(model.labels),
    )
    return train(model, dataset, settings, run, objective, hook)


def distill(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    run: TrainingRun,
    *,
    more: Sequence[TorchModel] = (),
    layer_map: LayerMap | None = None,
    hook: StepHook | None = None,
) -> TrainingSummary:
    """Train `model` in place towards `teacher`, whose weights stay and which moves to `run.device`.

    With `more` teachers the loss on predictions is the mean of those towards each of them, as of a
    teacher that is their ensemble; layers are compared with `teacher` alone.

    `layer_map` holds pairs (student layer, teacher layer), both counted from 0, for the losses on
    hidden states, attention and sub-layers; by default they are spread evenly. The output of the
    embeddings is always compared with the teacher's. Labels are matched by their names. A narrower
    student's hidden states are compared through a linear map, learnt and thrown away. Texts are
    changed first where `settings` ask for it: see `augmented`.

    Raises `StepFailed` before training when the teacher cannot teach this model: what
    `check_distillation` finds, and for the losses on layers a wider student, or layers that lack
    what is compared. Also raises what `train` raises.
    """
    check_distillation(model, teacher, dataset, settings, more=more)
    order = teacher_order(model, teacher, dataset.examples)
    dataset, settings = augmented(model, teacher, dataset, settings, run.seed)
    lesson = Lesson(model, (teacher, *more), dataset, settings, run, order)
    for each in lesson.teachers:
        each.move_to(run.device)
        each.module.eval()
    with lesson.objective(layer_map) as objective:
        return train(model, dataset, settings, run, objective, hook)


def distilled(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    run: TrainingRun,
    layer_map: LayerMap | None,
    more: Sequence[TorchModel] = (),
) -> TrainingSummary:
    """Train as `distill` does, with arguments in order, as other processes are sent them."""
    return distill(model, teacher, dataset, settings, run, more=more, layer_map=layer_map)


def check_finetuning(model: TorchModel, dataset: Dataset, settings: FinetuneSettings) -> None:
    """Raise `StepFailed` when a model that has been compressed could not be trained so either.

    That is for an empty split, one without labels, weights of classes that there are not,
    embeddings to freeze where there are none, and layers to tell apart that are not found.
    """
    require_examples(dataset)
    _require_labels(dataset, "fine-tuning")
    require_classes(model, settings)
    _require_trainable(model, settings)


def check_distillation(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    *,
    more: Sequence[TorchModel] = (),
) -> None:
    """Raise `StepFailed` when a student that has been compressed could not learn so either.

    That is for an empty split, labels that are needed and missing, a teacher whose outputs are of
    other labels or another width, texts that cannot be changed as asked for, embeddings to freeze
    where there are none, and for the losses on layers a teacher that reads other tokens, or has no
    layer `relation_layer`. What depends on the layers that the student is left with is not looked
    at.
    """
    require_examples(dataset)
    for each in (teacher, *more):
        teacher_order(model, each, dataset.examples)
        check_augmentation(model, each, dataset, settings)
    if settings.margin_weight > 0:
        _require_groups(dataset)
    if settings.teacher_cache is not None and model.task.draws_inputs:
        raise StepFailed(
            f"teacher_cache keeps what the teacher gives for each row, and {model.task.name} hides "
            f"other words of a text in every epoch; remove it"
        )
    if settings.label_weight > 0:
        _require_labels(dataset, "distillation with label_weight above 0")
        require_classes(model, settings)
    _require_trainable(model, settings)
    if settings.mixup_alpha > 0:
        for each in (teacher, *more):
            check_inputs(model, each, dataset, mixes=True)
    if settings.compares_layers or model.task.draws_inputs:
        for each in (teacher, *more) if model.task.draws_inputs else (teacher,):
            check_inputs(model, each, dataset)
    if settings.compares_layers:
        require_known_padding(model, dataset)
    if settings.sublayer_weight > 0:
        known_layers(model, "sublayer_weight")
        known_layers(teacher, "sublayer_weight")
    if settings.relation_weight > 0:
        known_layers(model, "relation_weight")
        relation_teacher(teacher, settings)


def _require_trainable(model: TorchModel, settings: TrainingSettings) -> None:
    require_embeddings(model, settings)
    require_layers(model, settings)
    require_checkpointing(model, settings)
    require_own_rows(model, settings, team())


def _require_groups(dataset: Dataset) -> None:
    """Raise `StepFailed` where no two rows are candidates of one query."""
    groups = dataset.groups
    if groups is None or len(np.unique(groups)) == len(groups):
        raise StepFailed(
            f"{dataset.source}: margin_weight compares the candidates of a query, and no two rows "
            f"of the split '{dataset.name}' have one in common; name the column of the query's id "
            f"in data.group, or set margin_weight to 0"
        )


def _require_labels(dataset: Dataset, purpose: str) -> None:
    if dataset.labels is None:
        raise StepFailed(
            f"{dataset.source}: {purpose} needs labels, and the split '{dataset.name}' has none; "
            f"name the label column in data.label, or distill with label_weight: 0"
        )
