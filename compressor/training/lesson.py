"""What a student learns of its teachers: one loss of three, and what it needs besides.

A student is compared with the teachers' outputs for each batch, or with those for a batch that is
mixed of two, or with outputs and layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.batches import TrainingBatch
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.distill_settings import DistillSettings
from compressor.training.label_loss import LabelLoss, label_loss
from compressor.training.layer_losses import layer_losses
from compressor.training.layer_map import LayerMap
from compressor.training.losses import logits_mse, vector_distance
from compressor.training.mixing import Mixer, mixed_mask, run_mixed
from compressor.training.snapshot import Stateful
from compressor.training.teacher import (
    TeacherNow,
    TeacherOfMixed,
    TeacherOutputs,
    in_order,
    splits_otherwise,
    teacher_order,
)
from compressor.training.teacher_cache import StoredTeacherOutputs
from compressor.training.training_run import LossFunction, Objective, TrainingRun


@dataclass(frozen=True)
class Lesson:
    """A student, its teachers, and the rows; layers are compared with the first teacher's alone.

    `order` says where each of the student's numbers stands on the last axis of the first teacher's
    outputs.
    """

    student: TorchModel
    teachers: Sequence[TorchModel]
    dataset: Dataset
    settings: DistillSettings
    run: TrainingRun
    order: Sequence[int]
    # What the losses remember from step to step, by name.
    cached: dict[str, Stateful] = field(init=False, default_factory=dict)

    @contextmanager
    def objective(self, layer_map: LayerMap | None) -> Iterator[Objective]:
        """Give what to train on; where layers are compared, both models are watched meanwhile.

        Raises `StepFailed` when layers cannot be compared.
        """
        facts = self._facts()
        if self.settings.mixup_alpha > 0:
            yield self._objective(self._loss_of_mixed(), facts)
            return
        if self.settings.teacher_cache is not None:
            facts["teacher_outputs"] = "stored"  # of other batches
        others = [
            self._outputs_of(each, f"teacher_logits_{place}")
            for place, each in enumerate(self.teachers[1:], 1)
        ]
        if not self.settings.compares_layers:
            every = [self._outputs_of(self.teachers[0], "teacher_logits"), *others]
            yield self._objective(self._loss_of_outputs(every), facts)
            return
        compared = (self.student, self.teachers[0], self.dataset, self.settings)
        with layer_losses(*compared, layer_map, seed=self.run.seed) as (losses, pairs):
            facts["layers"] = [list(pair) for pair in pairs]
            on_outputs = self._output_loss(self._on_labels)

            def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
                on_layers, own, other = losses(module, batch)
                wanted = [other[..., in_order(self.order)], *(each(batch) for each in others)]
                return on_layers + on_outputs(own, wanted, batch)

            extra = {} if losses.projection is None else {"projection": losses.projection}
            yield replace(self._objective(loss, facts), trained_too=extra)

    def _facts(self) -> dict[str, object]:
        """Return plain JSON data about the teachers, for the key of the training."""
        first, *more = [digest_of_tensors(each.module.state_dict()) for each in self.teachers]
        facts: dict[str, object] = {"teacher": first, "labels": self.order}
        if more:
            facts["more_teachers"] = more
        return facts

    @cached_property
    def _on_labels(self) -> LabelLoss | None:
        wanted = self.settings.label_weight > 0
        return label_loss(self.student, self.dataset, self.settings) if wanted else None

    def _objective(self, loss: LossFunction, facts: dict[str, object]) -> Objective:
        on_labels = self._on_labels
        return Objective(
            loss,
            facts,
            cached=self.cached,
            count=None if on_labels is None else on_labels.count,
            told="" if on_labels is None else on_labels.words(self.student.labels),
            whole_groups=self.settings.margin_weight > 0,
        )

    def _outputs_of(self, teacher: TorchModel, name: str) -> Callable[[TrainingBatch], Tensor]:
        """Return what gives a teacher's outputs for a batch: computed now, once, or stored."""
        dataset, folder = self.dataset, self.settings.teacher_cache
        order = teacher_order(self.student, teacher, dataset.examples)
        if self.student.task.draws_inputs:
            return TeacherNow(self.student, teacher, dataset, order)
        otherwise = splits_otherwise(self.student, teacher, dataset.examples)
        aligned = self.student if otherwise else None
        found: TeacherOutputs
        if folder is not None:
            progress = self.run.progress
            found = StoredTeacherOutputs(teacher, dataset, order, folder, progress, student=aligned)
        else:
            found = TeacherOutputs(teacher, dataset, order, self.run.team, student=aligned)
            # Not computed again in other batches, where they would differ in the last bits.
            self.cached[name] = found
        return lambda batch: found(batch.rows, batch.mask)

    def _loss_of_outputs(
        self, teachers: Sequence[Callable[[TrainingBatch], Tensor]]
    ) -> LossFunction:
        """Return the loss towards what the teachers give for a batch, and on labels."""
        on_outputs = self._output_loss(self._on_labels)

        def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
            student = self.student.task.output_of(module(**batch.inputs))
            return on_outputs(student, [each(batch) for each in teachers], batch)

        return loss

    def _loss_of_mixed(self) -> LossFunction:
        """Return the loss towards what the teachers give for mixed examples, and on both labels."""
        model, on_labels = self.student, self._on_labels
        teachers = [
            TeacherOfMixed(each, self.dataset, teacher_order(model, each, self.dataset.examples))
            for each in self.teachers
        ]
        self.cached["mixer"] = mixer = Mixer(self.run.seed, mixup_alpha=self.settings.mixup_alpha)
        on_outputs = self._output_loss(None)

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
            labelled = on_labels.of_mixed(student, batch.of_all(batch.targets), batch, mix, own)
            return total + self.settings.label_weight * labelled * batch.label_share

        return loss

    def _output_loss(self, on_labels: LabelLoss | None) -> _OutputLoss:
        """Return the weighted sum of the losses towards the teachers and on labels."""
        settings, losses = self.settings, self.student.task.losses
        groups = None if self.dataset.groups is None else torch.from_numpy(self.dataset.groups)

        def loss(student: Tensor, teachers: Sequence[Tensor], batch: TrainingBatch) -> Tensor:
            distance = _mean([self._distance(student, teacher, batch) for teacher in teachers])
            total = settings.logits_weight * distance
            if settings.margin_weight > 0:
                assert groups is not None, "the split is checked"
                own = batch.of_all(groups[batch.rows.cpu()].to(student.device))
                scores = batch.of_all(student)
                margins = _mean(
                    [losses.margins(scores, batch.of_all(teacher), own) for teacher in teachers]
                )
                total = total + settings.margin_weight * batch.once(margins)
            if on_labels is not None:
                total = total + settings.label_weight * on_labels.of_batch(student, batch)
            return total

        return loss

    def _distance(self, student: Tensor, teacher: Tensor, batch: TrainingBatch) -> Tensor:
        """Return what these rows add to the step's mean distance of the student's outputs."""
        task, settings = self.student.task, self.settings
        if settings.alignment is not None:
            return batch.part_of_mean(vector_distance(student, teacher))
        mask = batch.mask
        if task.aligns_words and mask is not None:
            silent = teacher.isnan().any(dim=-1)  # (rows, tokens): of these it says nothing
            mask, teacher = mask.masked_fill(silent, 0), teacher.nan_to_num()
        if settings.logits_loss == "mse":
            found = logits_mse(student, teacher, mask if task.per_token else None)
        else:
            found = task.losses.distance(student, teacher, mask, settings.temperature)
        return batch.part_of_mean(found)


# The student's outputs, the teachers' in the student's order, and the batch to a loss.
_OutputLoss = Callable[[Tensor, Sequence[Tensor], TrainingBatch], Tensor]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean()
