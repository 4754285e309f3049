"""Distillation as a step of a recipe: a student learns to predict as its teacher does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from compressor.data.readers import named_files
from compressor.data.settings import SplitSource
from compressor.errors import StepFailed
from compressor.files import facts_sha256, sha256
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.families.prunable import (
    depth_of,
    no_fewer_layers,
    parts_or_reason,
    unknown_attention,
    unprunable,
    why_first_layer_stays,
    why_no_layers_apart,
    width_of,
    with_depth,
)
from compressor.models.packaged import local_folder
from compressor.models.vocabulary_files import surely_other_vocabulary
from compressor.passes.base import About, TorchPass, Unfit, other_tokens
from compressor.passes.effort import Effort, training_effort
from compressor.passes.repair import longer
from compressor.passes.saving import ModelParts, Saving
from compressor.paths import HubName, unreadable
from compressor.tasks import OutputForm, Task, task_class, task_names
from compressor.tasks.pooling import MODULES
from compressor.training.distill_settings import DistillSettings, other_inputs
from compressor.training.layer_map import chosen_layers, layer_map_of


class Distill(DistillSettings, TorchPass):
    """Train towards a teacher's logits and, if wanted, what happens in its layers.

    The student is the model as the passes before left it, with all its layers or with some, or a
    checkpoint of any architecture. Where its tokenizer is another than the teacher's, only logits
    can be learnt; of tags, what the teacher says of each word as a whole. A narrower student's
    hidden states are compared through a linear map, which is learnt and thrown away.

    Ref: Hinton et al. 2015, arXiv:1503.02531; vectors of another width: Vujanic & Rueckstiess 2025,
    arXiv:2509.12539 (LEAF); dropping layers: Sanh et al. 2019, arXiv:1910.01108;
    hidden states and attention: Jiao et al. 2020, arXiv:1909.10351; relations: Wang et al. 2021,
    arXiv:2012.15828.
    """

    kind: Literal["distill"] = "distill"

    about: ClassVar[About] = About(
        group="train",
        summary="Train towards a teacher, without labels",
        explanation=(
            "Trains the model to predict as a teacher does, by default the untouched checkpoint. "
            "It needs no labels, and can make a smaller student from some of the "
            "layers."
        ),
        example="""\
passes:
  - kind: distill
    student_layers: 4
    epochs: 3
""",
    )

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset(
        {*DistillSettings.unwritten_defaults, "more_teachers", "unlabelled"}
    )
    learns_from_baseline: ClassVar[tuple[str, object] | None] = ("teacher", None)
    rows_of_its_own: ClassVar[str | None] = "unlabelled"

    teacher: HubName | None = Field(
        None,
        description=(
            "the teacher: a directory relative to the recipe, or a Hub id; left out, the "
            "untouched checkpoint"
        ),
    )
    more_teachers: tuple[HubName, ...] = Field(
        (),
        max_length=16,
        description=(
            "further teachers, each as teacher; the loss on predictions is the mean of those "
            "towards each, and layers are compared with the first alone"
        ),
    )
    student: HubName | None = Field(
        None,
        description=(
            "begin from this checkpoint in place of the model: a directory relative to the "
            "recipe, or a Hub id; it must have the model's labels and may have another tokenizer"
        ),
    )
    unlabelled: SplitSource | None = Field(
        None,
        description=(
            "further rows, which the student learns from the teacher alone: a source with `path`, "
            "as data.train has; with `text` for the column, and `max_rows` for that many, evenly "
            "spread; no label is read, and none of these rows may be in search or certification"
        ),
    )
    layer_map: (
        Literal["uniform", "first", "last"]
        | Annotated[
            tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], ...],
            Field(min_length=1),
        ]
        | None
    ) = Field(
        None,
        description=(
            "which teacher layer each student layer learns from: uniform spreads them evenly, "
            "first and last take the teacher's first or last ones, or list pairs [student layer, "
            "teacher layer] counted from 0; left out, the layer that it was in the teacher, or "
            "uniform"
        ),
    )
    student_layers: Annotated[int, Field(gt=0)] | tuple[Annotated[int, Field(ge=0)], ...] | None = (
        Field(
            None,
            description=(
                "make the student from this many layers of the model, evenly spread, or from the "
                "listed layers counted from 0; left out, all layers stay"
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

    @property
    def further_rows(self) -> SplitSource | None:
        """Return where the rows without labels lie."""
        return self.unlabelled

    @property
    def incomparable(self) -> str | None:
        """Return that vectors become another teacher's, where they are aligned with one."""
        if self.alignment is None or self.teacher is None:
            return None
        return "puts vectors into the space of another checkpoint's"

    @model_validator(mode="after")
    def _unlabelled_fits(self) -> Self:
        source = self.unlabelled
        if source is None:
            return self
        if source.path is None:
            raise ValueError(f"unlabelled reads a file of rows: give path, got {source.name}")
        for name in ("label", "prompt_name"):
            if getattr(source, name) is not None:
                raise ValueError(f"unlabelled.{name} is not read; remove it")
        if self.margin_weight > 0:
            raise ValueError(
                "margin_weight compares the candidates of a query, and unlabelled rows have none; "
                "remove unlabelled, or set margin_weight to 0"
            )
        return self

    @model_validator(mode="after")
    def _teachers_are_listened_to(self) -> Self:
        if self.more_teachers and not self.reads_outputs:
            raise ValueError(
                "more_teachers would do nothing with logits_weight and margin_weight 0; remove "
                "it, or set one of them above 0"
            )
        if len(set(self.more_teachers) | {self.teacher}) <= len(self.more_teachers):
            raise ValueError(
                f"more_teachers: name each teacher once, got {list(self.more_teachers)} beside "
                f"{self.teacher or 'the untouched checkpoint'}"
            )
        return self

    @model_validator(mode="after")
    def _layers_are_compared(self) -> Self:
        if self.layer_map is not None and not (
            self.hidden_weight or self.attention_weight or self.sublayer_weight
        ):
            raise ValueError(
                "layer_map would do nothing; set hidden_weight, attention_weight or "
                "sublayer_weight above 0, or leave layer_map out"
            )
        return self

    @classmethod
    def most_saved(cls, parts: ModelParts) -> Saving:
        """Return all layers, which a student may have fewer of."""
        if parts.no_layers is not None:
            return Saving(None, None, f"no smaller student: {parts.no_layers}")
        reason = "with a student of fewer layers; without one it recovers accuracy alone"
        return Saving(parts.layer_bytes, parts.layers_flops_share, reason)

    def milder(self) -> Iterator[Self]:
        """Yield longer training."""
        yield from longer(self)

    def unfit_to(self, files: CheckpointFiles, untouched: CheckpointFiles) -> Unfit:
        """Yield layers that are not there, and labels or widths that do not fit the teacher's."""
        student = files if self.student is None else _local_checkpoint(self.student)
        teacher = untouched if self.teacher is None else _local_checkpoint(self.teacher)
        yield from self._unfit_pair(files, student, teacher)
        for position, name in enumerate(self.more_teachers):
            more, names = _local_checkpoint(name), _labels(files)
            if more is not None and (why := _unfit_labels_of(more, names)) is not None:
                yield f"more_teachers.{position}", why

    def unfit_tokens(self, task: Task, files: CheckpointFiles, untouched: CheckpointFiles) -> Unfit:
        """Yield what compares tokens with those of a teacher that has another vocabulary."""
        student = files if self.student is None else _local_checkpoint(self.student)
        if student is None or not task.reads_tokens:
            return
        named: dict[str, str | None] = {"teacher": self.teacher}
        named |= {f"more_teachers.{place}": name for place, name in enumerate(self.more_teachers)}
        for key, name in named.items():
            teacher = untouched if name is None else _local_checkpoint(name)
            if teacher is None:
                continue
            if name is None and self.student is None:
                if task.draws_inputs and not files.reads_own_tokens:
                    yield "kind", other_tokens(task)
                continue
            if (why := _other_outputs(task, student, teacher)) is not None:
                yield key if name is not None else "student", why
                continue
            layers = [weight for weight in self.layer_weights if getattr(self, weight) > 0]
            wants = layers if key == "teacher" else []
            if self.mixup_alpha > 0:
                wants = ["mixup_alpha"]
            if task.draws_inputs:
                wants = wants or ["kind"]
            if not wants or not student.reads_own_tokens or not teacher.reads_own_tokens:
                continue
            found = surely_other_vocabulary(student.directory, teacher.directory)
            if found is not None:
                yield wants[0], other_inputs(found, mixes=self.mixup_alpha > 0)

    def _unfit_pair(
        self,
        files: CheckpointFiles,
        student: CheckpointFiles | None,
        teacher: CheckpointFiles | None,
    ) -> Unfit:
        """Yield key and reason of what student and teacher do not have; None is not known yet."""
        own, other = (
            None if each is None else depth_of(each.config) for each in (student, teacher)
        )
        if self.student_layers is not None:
            if student is not None and (refusal := unprunable(student.config)) is not None:
                yield "student_layers", refusal
                return
            if student is not None and (why := self._why_not_these_layers(student)) is not None:
                yield "student_layers", why
                return
            if own is not None:
                try:
                    own = len(chosen_layers(self.student_layers, own))
                except ValueError as error:
                    yield "student_layers", str(error).removeprefix("student_layers: ")
                    return
        if self.layer_map is not None and own is not None and other is not None:
            try:
                layer_map_of(self.layer_map, own, other)
            except ValueError as error:
                yield "layer_map", str(error).removeprefix("layer_map: ")
        yield from self._unknown_layers([each.config for each in (student, teacher) if each])
        if student is None or teacher is None:
            return
        names, begun = _labels(files), _labels(student)
        if self.student is not None and names and begun and begun != names:
            yield "student", other_labels(begun, names).removeprefix("student: ")
        if self.teacher is not None and (why := _unfit_labels_of(teacher, names)) is not None:
            yield "teacher", why
        narrow, wide = width_of(student.config), width_of(teacher.config)
        if narrow is None or wide is None:
            return
        if self.hidden_weight > 0 and narrow > wide:
            yield (
                "hidden_weight",
                f"projects the student's hidden states onto the teacher's, but the student is "
                f"wider: {narrow} numbers a token, the teacher has {wide}; set it to 0, or use "
                f"relation_weight",
            )

    def _why_not_these_layers(self, student: CheckpointFiles) -> str | None:
        """Return why a student cannot have the layers that are asked for, None where it can."""
        if (refusal := no_fewer_layers(student.config)) is not None:
            return refusal
        if isinstance(self.student_layers, int | None) or 0 in self.student_layers:
            return None
        reason = why_first_layer_stays(student.config)
        return None if reason is None else f"layer 0 has to stay: {reason}"

    def _unknown_layers(self, configs: Sequence[Mapping[str, object]]) -> Unfit:
        """Yield what compares parts of layers, where it is not known where those lie."""
        reasons = {
            str(it["model_type"]): why_no_layers_apart(it) or parts_or_reason(it) for it in configs
        }
        unknown = [(kind, why) for kind, why in reasons.items() if isinstance(why, str)]
        for key in ("sublayer_weight", "relation_weight"):
            if getattr(self, key) > 0 and unknown:
                yield key, unknown_attention(key, *unknown[0])

    @property
    def changes_structure(self) -> bool:
        """Return whether layers of the student go."""
        return self.student_layers is not None

    def leaves(self, files: CheckpointFiles) -> CheckpointFiles | None:
        """Return the student as its own file describes it, with the layers that it keeps."""
        student = files if self.student is None else _local_checkpoint(self.student)
        if student is None or self.student_layers is None:
            return student
        layers = self.student_layers
        depth = layers if isinstance(layers, int) else len(layers)
        return replace(student, config=with_depth(student.config, depth))

    def required_splits(self) -> frozenset[str]:
        """Return the training split."""
        return frozenset({"train"})

    def required_files(self) -> dict[str, Path]:
        """Return the file of further rows, where one is given."""
        path = None if self.unlabelled is None else self.unlabelled.path
        return {} if path is None else {"unlabelled.path": path}

    def file_digests(self) -> dict[str, str]:
        """Return the SHA-256 of the file of further rows, and one over those that they name."""
        found = super().file_digests()
        named = () if self.unlabelled is None else named_files(self.unlabelled)
        if digests := [sha256(path) for path in named if path.is_file()]:
            found["unlabelled"] = facts_sha256(digests)
        return found

    def missing_packages(self) -> Iterator[tuple[str, str]]:
        """Yield what is missing on this machine, a file of further rows that is not there too."""
        yield from super().missing_packages()
        for setting, path in self.required_files().items():
            if (reason := unreadable(path)) is not None:
                yield setting, f"{path} {reason}; paths are relative to the recipe"

    def required_checkpoints(self) -> dict[str, str]:
        """Return teacher and student, where the recipe names them."""
        named = {"teacher": self.teacher, "student": self.student}
        more = {f"more_teachers.{place}": name for place, name in enumerate(self.more_teachers)}
        return {role: name for role, name in (named | more).items() if name is not None}

    def effort(self, num_rows: Mapping[str, int]) -> Effort:
        """Return the training; a student of its own is taken for as slow as the checkpoint."""
        return training_effort(self, num_rows, teachers=1 + len(self.more_teachers))


def _local_checkpoint(name: str) -> CheckpointFiles | None:
    """Return a checkpoint that lies on this machine; None for one on the Hub."""
    return None if local_folder(name) is None else find_checkpoint(name)


def _other_outputs(task: Task, student: CheckpointFiles, teacher: CheckpointFiles) -> str | None:
    """Return why outputs for each token of a text cannot be compared; None where they may be."""
    sizes = [each.config.get("vocab_size") for each in (student, teacher)]
    if not task.per_token or task.aligns_words or None in sizes or not student.reads_own_tokens:
        return None
    own, other = (OutputForm((), SimpleNamespace(**each.config)) for each in (student, teacher))
    try:
        task.teacher_order(own, other)
    except StepFailed as error:
        return str(error)
    return None


def _unfit_labels_of(teacher: CheckpointFiles, names: Sequence[str] | None) -> str | None:
    """Return why a teacher cannot teach a model with labels `names`; None where it can."""
    named = _labels(teacher)
    if not named or not names or sorted(named) == sorted(names):
        return None
    return (
        f"its labels are {list(named)}, the model's {list(names)}; they must be the same, so take "
        f"another teacher or correct id2label in its config.json"
    )


def other_labels(student: Sequence[str], model: Sequence[str]) -> str:
    """Return the sentence that refuses a student with a head for other labels."""
    return (
        f"student: its labels are {list(student)}, the model's {list(model)}; they must be the "
        f"same in the same order, because the artifact keeps the order: take another student, or "
        f"one without a head"
    )


def _labels(files: CheckpointFiles) -> tuple[str, ...] | None:
    """Return the labels of a checkpoint that was saved with the head of a task that names them."""
    tasks = [task_class(name) for name in task_names()]
    heads = [task.head for task in tasks if task.has_head and task.names_labels]
    has_head = any(name.endswith(head) for name in files.architectures for head in heads)
    return files.labels if has_head and not (files.directory / MODULES).is_file() else None
