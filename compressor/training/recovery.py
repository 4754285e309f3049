"""Fine-tuning and distillation as functions, for the passes of those names and for recovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.machine.team import team
from compressor.models.torch_model import TorchModel
from compressor.training.activation_hooks import known_layers, relation_teacher
from compressor.training.augmentation import augmented, check_augmentation
from compressor.training.batches import TrainingBatch
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.data_parallel import require_own_rows
from compressor.training.distill_settings import DistillSettings
from compressor.training.label_loss import LabelLoss, label_loss, require_classes
from compressor.training.layer_losses import layer_losses
from compressor.training.layer_map import LayerMap
from compressor.training.losses import logits_mse, vector_distance
from compressor.training.mixing import Mixer, mixed_loss, mixed_mask, run_mixed
from compressor.training.settings import FinetuneSettings, TrainingSettings
from compressor.training.snapshot import Stateful
from compressor.training.teacher import (
    TeacherNow,
    TeacherOfMixed,
    TeacherOutputs,
    check_inputs,
    in_order,
    require_known_padding,
    splits_otherwise,
    teacher_order,
)
from compressor.training.teacher_cache import StoredTeacherOutputs
from compressor.training.trainer import (
    require_checkpointing,
    require_embeddings,
    require_examples,
    require_layers,
    train,
)
from compressor.training.training_run import (
    LossFunction,
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
        return _on_labels(on_labels, task.output_of(module(**batch.inputs)), batch)

    def loss_of_mixed(module: nn.Module, batch: TrainingBatch) -> Tensor:
        assert batch.targets is not None, "the split is checked"
        inputs = {name: batch.of_all(value) for name, value in batch.inputs.items()}
        targets, own = batch.of_all(batch.targets), batch.place
        mix = mixer.draw(inputs[model.module.main_input_name])
        outputs = task.output_of(run_mixed(module, inputs, mix, own))

        def mean(outputs: Tensor, targets: Tensor) -> Tensor:
            return batch.mean(on_labels.summed(outputs, targets))

        return mixed_loss(mean, outputs, targets, mix, own) * batch.label_share

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
    on_labels = label_loss(model, dataset, settings) if settings.label_weight > 0 else None
    on_outputs = _output_loss(model, settings, dataset, on_labels)
    for each in (teacher, *more):
        each.move_to(run.device)
        each.module.eval()
    facts: dict[str, object] = {
        "teacher": digest_of_tensors(teacher.module.state_dict()),
        "labels": order,
    }
    if more:
        facts["more_teachers"] = [digest_of_tensors(each.module.state_dict()) for each in more]
    cached: dict[str, Stateful] = {}

    def trained(
        loss: LossFunction, trained_too: Mapping[str, nn.Module] | None = None
    ) -> TrainingSummary:
        objective = Objective(
            loss,
            facts,
            cached=cached,
            trained_too=trained_too or {},
            count=None if on_labels is None else on_labels.count,
            told="" if on_labels is None else on_labels.words(model.labels),
            whole_groups=settings.margin_weight > 0,
        )
        return train(model, dataset, settings, run, objective, hook)

    if settings.mixup_alpha > 0:
        every_one = [
            TeacherOfMixed(each, dataset, teacher_order(model, each, dataset.examples))
            for each in (teacher, *more)
        ]
        cached["mixer"] = mixer = Mixer(run.seed, mixup_alpha=settings.mixup_alpha)
        return trained(_loss_of_mixed(model, settings, dataset, on_labels, every_one, mixer))

    def outputs_of(teacher: TorchModel, name: str) -> Callable[[TrainingBatch], Tensor]:
        found = _outputs_of(model, teacher, dataset, settings, run)
        if isinstance(found, TeacherNow):
            return found
        if settings.teacher_cache is None:
            # Not computed again in other batches, where they would differ in the last bits.
            cached[name] = found
        return lambda batch: found(batch.rows, batch.mask)

    others = [outputs_of(each, f"teacher_logits_{place}") for place, each in enumerate(more, 1)]
    if settings.teacher_cache is not None:
        facts["teacher_outputs"] = "stored"  # of other batches
    if not settings.compares_layers:
        every = [outputs_of(teacher, "teacher_logits"), *others]

        def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
            student = model.task.output_of(module(**batch.inputs))
            return on_outputs(student, [each(batch) for each in every], batch)

        return trained(loss)
    watched = layer_losses(model, teacher, dataset, settings, layer_map, seed=run.seed)
    with watched as (losses, pairs):
        facts["layers"] = [list(pair) for pair in pairs]

        def loss_with_layers(module: nn.Module, batch: TrainingBatch) -> Tensor:
            on_layers, own, other = losses(module, batch)
            wanted = [other[..., in_order(order)], *(each(batch) for each in others)]
            return on_layers * batch.share + on_outputs(own, wanted, batch)

        extra = {} if losses.projection is None else {"projection": losses.projection}
        return trained(loss_with_layers, extra)


def _outputs_of(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    run: TrainingRun,
) -> TeacherNow | TeacherOutputs:
    """Return what gives the outputs of `teacher` for a batch: computed now, once, or stored."""
    order = teacher_order(model, teacher, dataset.examples)
    if model.task.draws_inputs:
        return TeacherNow(model, teacher, dataset, order)
    aligned = model if splits_otherwise(model, teacher, dataset.examples) else None
    if settings.teacher_cache is not None:
        folder = settings.teacher_cache
        return StoredTeacherOutputs(teacher, dataset, order, folder, run.progress, student=aligned)
    return TeacherOutputs(teacher, dataset, order, run.team, student=aligned)


def _loss_of_mixed(
    model: TorchModel,
    settings: DistillSettings,
    dataset: Dataset,
    on_labels: LabelLoss | None,
    teachers: Sequence[TeacherOfMixed],
    mixer: Mixer,
) -> LossFunction:
    """Return the loss towards what the teachers give for mixed examples, and on both labels."""
    on_outputs = _output_loss(model, settings, dataset, None)

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        inputs = {name: batch.of_all(value) for name, value in batch.inputs.items()}
        own = batch.place
        mix = mixer.draw(inputs[model.module.main_input_name])
        student = model.task.output_of(run_mixed(module, inputs, mix, own))
        wanted = [teacher(inputs, mix, own) for teacher in teachers]
        mask = {name: value[own] for name, value in mixed_mask(inputs, mix).items()}
        mixed = replace(batch, inputs={**batch.inputs, **mask})
        total = on_outputs(student, wanted, mixed)
        if on_labels is None:
            return total
        assert batch.targets is not None, "the split is checked"

        def mean(outputs: Tensor, targets: Tensor) -> Tensor:
            return batch.mean(on_labels.summed(outputs, targets))

        labelled = mixed_loss(mean, student, batch.of_all(batch.targets), mix, own)
        return total + settings.label_weight * labelled * batch.label_share

    return loss


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


# The student's outputs, the teachers' in the student's order, and the batch to a loss.
_OutputLoss = Callable[[Tensor, Sequence[Tensor], TrainingBatch], Tensor]


def _output_loss(
    model: TorchModel, settings: DistillSettings, dataset: Dataset, on_labels: LabelLoss | None
) -> _OutputLoss:
    """Return the weighted sum of the losses towards the teacher and on labels."""
    losses = model.task.losses
    groups = None if dataset.groups is None else torch.from_numpy(dataset.groups)

    def distance_to(student: Tensor, teacher: Tensor, batch: TrainingBatch) -> Tensor:
        if settings.alignment is not None:
            return batch.mean(vector_distance(student, teacher))
        mask = batch.mask
        if model.task.aligns_words and mask is not None:
            silent = teacher.isnan().any(dim=-1)  # (rows, tokens): of these it says nothing
            mask, teacher = mask.masked_fill(silent, 0), teacher.nan_to_num()
        if settings.logits_loss == "mse":
            return batch.mean(logits_mse(student, teacher, mask if model.task.per_token else None))
        return batch.mean(losses.distance(student, teacher, mask, settings.temperature))

    def loss(student: Tensor, teachers: Sequence[Tensor], batch: TrainingBatch) -> Tensor:
        distance = _mean([distance_to(student, teacher, batch) for teacher in teachers])
        total = settings.logits_weight * distance * batch.share
        if settings.margin_weight > 0:
            assert groups is not None, "the split is checked"
            own = batch.of_all(groups[batch.rows.cpu()].to(student.device))
            scores = batch.of_all(student)
            margins = _mean(
                [losses.margins(scores, batch.of_all(teacher), own) for teacher in teachers]
            )
            total = total + settings.margin_weight * batch.once(margins)
        if on_labels is not None:
            total = total + settings.label_weight * _on_labels(on_labels, student, batch)
        return total

    return loss


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean()


def _on_labels(loss: LabelLoss, outputs: Tensor, batch: TrainingBatch) -> Tensor:
    assert batch.targets is not None, "the split is checked"
    return batch.mean(loss.summed(outputs, batch.targets)) * batch.label_share


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
