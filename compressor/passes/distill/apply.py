"""The work of `distill`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from compressor.errors import StepFailed
from compressor.models.checkpoint import find_checkpoint
from compressor.models.families.layers import find_encoder
from compressor.models.families.prunable import require_fewer_layers
from compressor.models.structure import keep_layers, require_first_layer, with_first_layer
from compressor.models.torch_model import TorchModel, load_foreign, load_with_head, try_batch
from compressor.passes.base import Ahead, PassContext
from compressor.passes.distill.alignment import aligned, needs_map, unfitted
from compressor.passes.distill.settings import Distill, other_labels
from compressor.passes.distill.unlabelled import with_unlabelled
from compressor.passes.lent_run import lent_run
from compressor.tasks import load_task
from compressor.tasks.pooling import MODULES
from compressor.training.layer_map import LayerMap, chosen_layers, layer_map_of
from compressor.training.recovery import check_distillation, distilled
from compressor.training.together import in_all_processes
from compressor.words import counted

_TRIED_ROWS = 4  # of the training split, that a student and a teacher read before a run begins


def look_ahead(settings: Distill, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Load student and teacher, and see whether the one could learn from the other."""
    student = model if settings.student is None else _begin(settings, model, ahead.seed)[0]
    teacher = _load_teacher(settings.teacher, model, lambda: ahead.untouched)
    more = {
        name: _load_teacher(name, model, lambda: ahead.untouched) for name in settings.more_teachers
    }
    if settings.student_layers is not None:
        encoder = find_encoder(student.module)
        require_fewer_layers(encoder.config)
        if not isinstance(settings.student_layers, int):
            require_first_layer(encoder, settings.student_layers)
    if settings.alignment is not None and needs_map(student, teacher):
        student = unfitted(student, teacher)
    if ahead.train is not None:
        for name, each in ((settings.student, student), (settings.teacher, teacher)):
            if name is not None:
                try_batch(find_checkpoint(name), each, ahead.train.examples[:_TRIED_ROWS])
        for name, each in more.items():
            try_batch(find_checkpoint(name), each, ahead.train.examples[:_TRIED_ROWS])
        train = with_unlabelled(settings, ahead.train, student.task)
        check_distillation(student, teacher, train, settings, more=list(more.values()))
    return student


def apply(settings: Distill, model: TorchModel, context: PassContext) -> TorchModel:
    """Train `model` in place, or the checkpoint named as `student`, and return it.

    Raises `StepFailed` before training when the teacher cannot teach this student or
    `student_layers` or `layer_map` does not fit, and `EnvironmentMismatch` when teacher or
    student cannot be loaded.
    """
    teacher = _load_teacher(settings.teacher, model, context.load_baseline)
    more = [_load_teacher(name, model, context.load_baseline) for name in settings.more_teachers]
    student = model if settings.student is None else _load_student(settings, model, context)
    layer_map = _shape(settings, student, teacher, context)
    if settings.alignment is not None and needs_map(student, teacher):
        student.move_to(context.device)
        teacher.move_to(context.device)
        found = aligned(student, teacher, context.train, context.seed, context.progress)
        context.note(found.sentence())
        context.record("alignment", asdict(found))
    run = lent_run(context, settings.kind)
    train = with_unlabelled(settings, context.train, student.task)
    summary = in_all_processes(
        run, distilled, student, teacher, train, settings, run, layer_map, more
    )
    context.note(summary.sentence())
    if settings.unlabelled is not None:
        context.note(f"{counted(len(train) - len(context.train), 'row')} of them without labels")
    return student


def _load_teacher(
    name: str | None, model: TorchModel, load_baseline: Callable[[], TorchModel]
) -> TorchModel:
    """Load the untouched checkpoint or the one called `name`, to read what `model` reads."""
    if name is None:
        return load_baseline()
    files, task = find_checkpoint(name), model.task
    if not task.has_head and (files.directory / MODULES).is_file():
        # What makes its vectors is its own affair; the recipe speaks of files that say nothing.
        task = load_task(task.name, max_length=task.max_length)
    teacher = replace(load_foreign(files, task), task=model.task)
    _require_length(teacher, "teacher")
    return teacher


def _load_student(settings: Distill, model: TorchModel, context: PassContext) -> TorchModel:
    """Load the checkpoint to begin from; it takes the place of `model`."""
    student, is_new = _begin(settings, model, context.seed)
    student.move_to(context.device)
    head = "a new head" if is_new else "its own head"
    context.note(
        f"the student begins as {settings.student} ({student.module.config.model_type}, "
        f"{counted(student.parameter_counts()[0], 'parameter')}) with {head}"
    )
    return student


def _begin(settings: Distill, model: TorchModel, seed: int) -> tuple[TorchModel, bool]:
    """Return the checkpoint to begin from, and whether its head is new."""
    assert settings.student is not None, "the caller asked"
    files = find_checkpoint(settings.student)
    student, is_new = load_with_head(files, model.task, model.labels, seed=seed)
    if student.labels != model.labels:
        raise StepFailed(other_labels(student.labels, model.labels))
    _require_length(student, "student")
    return student, is_new


def _shape(
    settings: Distill, student: TorchModel, teacher: TorchModel, context: PassContext
) -> LayerMap | None:
    """Take out layers of the student where wanted, and return which layers it learns from."""
    layer_map = None
    if settings.student_layers is not None:
        encoder = find_encoder(student.module)
        depth = encoder.depth
        layers = chosen_layers(settings.student_layers, depth)
        if isinstance(settings.student_layers, int):
            layers = with_first_layer(encoder, layers)
        taught = getattr(teacher.module.config, "num_hidden_layers", None)
        if settings.student is None and taught == depth:
            layer_map = tuple(enumerate(layers))
        keep_layers(encoder, layers)
        context.note(f"the student has layers {', '.join(map(str, layers))} of {depth}")
    if settings.layer_map is None:
        return layer_map
    depths = (each.module.config.num_hidden_layers for each in (student, teacher))
    return layer_map_of(settings.layer_map, *depths)


def _require_length(model: TorchModel, whose: str) -> None:
    """Raise `StepFailed` when a model cannot read as many tokens as the recipe gives it."""
    limit = getattr(model.preprocessor, "model_max_length", None)
    wanted = model.task.max_length
    if wanted is not None and limit is not None and wanted > limit:
        raise StepFailed(
            f"{whose}: it reads at most {counted(limit, 'token')}, data.max_length is {wanted}; "
            f"set data.max_length to {limit} or less"
        )
