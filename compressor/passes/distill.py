"""Distillation as a step of a recipe: a student learns to answer like its teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from compressor.passes._base import PassContext, TorchPass
from compressor.paths import HubName
from compressor.training.layers import chosen_layers
from compressor.training.settings import DistillSettings

if TYPE_CHECKING:
    from compressor.models.torch_model import TorchModel


class Distill(DistillSettings, TorchPass):
    """Train towards a teacher's logits and, if wanted, its hidden states and attention.

    The student is the model as the passes before left it, with all its layers or with some.

    Ref: Hinton et al. 2015, arXiv:1503.02531; dropping layers: Sanh et al. 2019, arXiv:1910.01108;
    hidden states and attention: Jiao et al. 2020, arXiv:1909.10351.
    """

    kind: Literal["distill"] = "distill"

    teacher: HubName | None = Field(
        None,
        description="the teacher: a directory relative to the recipe, or a Hub id; null is the "
        "untouched checkpoint",
    )
    student_layers: Annotated[int, Field(gt=0)] | tuple[Annotated[int, Field(ge=0)], ...] | None = (
        Field(
            None,
            description=(
                "make the student from this many layers of the model, evenly spaced, or from the "
                "listed ones counted from 0; null keeps all"
            ),
        )
    )

    @field_validator("student_layers")
    @classmethod
    def _in_order(cls, layers: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
        if isinstance(layers, tuple) and (not layers or list(layers) != sorted(set(layers))):
            raise ValueError(
                f"list at least one layer, each once and in rising order, got {list(layers)}"
            )
        return layers

    def required_splits(self) -> frozenset[str]:
        """Return the training split."""
        return frozenset({"train"})

    def apply(self, model: TorchModel, context: PassContext) -> TorchModel:
        """Train `model` in place.

        Raises `ValueError` before training when the teacher cannot teach this model or
        `student_layers` does not fit it, and `EnvironmentMismatch` when the teacher cannot be
        loaded.
        """
        from compressor.models.architectures import encoder_layers
        from compressor.models.structure import keep_layers
        from compressor.models.torch_model import load_checkpoint
        from compressor.training.recovery import distill
        from compressor.training.trainer import TrainingRun

        if self.teacher is None:
            teacher = context.load_baseline()
        else:
            teacher = load_checkpoint(self.teacher, task=model.task.name)
            teacher = replace(teacher, task=model.task)
        layer_map = None
        if self.student_layers is not None:
            depth = len(encoder_layers(model.module))
            layers = chosen_layers(self.student_layers, depth)
            if len(encoder_layers(teacher.module)) == depth:
                layer_map = tuple(enumerate(layers))
            keep_layers(model.module, layers)
            context.note(f"the student has layers {', '.join(map(str, layers))} of {depth}")
        run = TrainingRun(
            context.device, context.seed, context.work_dir, context.progress, self.kind
        )
        summary = distill(model, teacher, context.train, self, run, layer_map=layer_map)
        context.note(summary.sentence())
        return model
