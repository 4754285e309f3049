"""What config.json says against settings of `prune_structured` and `distill`; free of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.families.prunable import (
    depth_of,
    heads_refusal,
    unprunable,
    why_heads_stay,
    width_of,
    with_depth,
)
from compressor.models.packaged import local_folder
from compressor.models.pooling import MODULES
from compressor.tasks import task_class, task_names
from compressor.training.layer_map import chosen_layers, layer_map_of
from compressor.words import counted

if TYPE_CHECKING:
    from compressor.passes.distill.settings import Distill
    from compressor.passes.prune_structured.settings import PruneStructured


def takes_heads(settings: PruneStructured) -> bool:
    """Return whether heads may go at all."""
    if settings.method == "reconstruction":
        return settings.head_ratio != 0
    return settings.heads_to_remove > 0


def unfit_to_prune(settings: PruneStructured, files: CheckpointFiles) -> Iterator[tuple[str, str]]:
    """Yield key and reason of what this checkpoint does not have to remove."""
    if (refusal := unprunable(files.config)) is not None:
        yield "kind", refusal
        return
    if takes_heads(settings) and (reason := why_heads_stay(files.config)) is not None:
        key = "ratio" if settings.head_ratio is None else "head_ratio"
        yield key, heads_refusal(files.config["model_type"], reason)
    if (depth := depth_of(files.config)) is None:
        return
    if settings.layers is not None and settings.layers >= depth:
        yield (
            "layers",
            f"the model has {counted(depth, 'layer')}, so fewer have to stay, got "
            f"{settings.layers}",
        )
    dropped = settings.drop_layers or ()
    if dropped and (max(dropped) >= depth or len(dropped) >= depth):
        yield (
            "drop_layers",
            f"the model has layers 0 to {depth - 1} and one has to stay, got {list(dropped)}",
        )


def with_layers_left(settings: PruneStructured, files: CheckpointFiles) -> CheckpointFiles:
    """Return the checkpoint as it is described once layers are gone."""
    depth = depth_of(files.config)
    if settings.layers is not None:
        depth = settings.layers
    elif settings.drop_layers is not None and depth is not None:
        depth -= len(settings.drop_layers)
    return files if depth is None else replace(files, config=with_depth(files.config, depth))


def local_checkpoint(name: str) -> CheckpointFiles | None:
    """Return a checkpoint that lies on this machine; None for one on the Hub."""
    return None if local_folder(name) is None else find_checkpoint(name)


def other_labels(student: Sequence[str], model: Sequence[str]) -> str:
    """Return the sentence that refuses a student with a head for other labels."""
    return (
        f"student: its labels are {list(student)}, the model's {list(model)}; they must be the "
        f"same in the same order, because the artifact keeps the order: take another student, or "
        f"one without a head"
    )


def unfit_to_distill(
    settings: Distill,
    files: CheckpointFiles,
    student: CheckpointFiles | None,
    teacher: CheckpointFiles | None,
) -> Iterator[tuple[str, str]]:
    """Yield key and reason of what student and teacher do not have; None is not known yet."""
    own, other = (None if each is None else depth_of(each.config) for each in (student, teacher))
    if settings.student_layers is not None:
        if student is not None and (refusal := unprunable(student.config)) is not None:
            yield "student_layers", refusal
            return
        if own is not None:
            try:
                own = len(chosen_layers(settings.student_layers, own))
            except ValueError as error:
                yield "student_layers", str(error).removeprefix("student_layers: ")
                return
    if settings.layer_map is not None and own is not None and other is not None:
        try:
            layer_map_of(settings.layer_map, own, other)
        except ValueError as error:
            yield "layer_map", str(error).removeprefix("layer_map: ")
    if student is None or teacher is None:
        return
    names, begun, named = _labels(files), _labels(student), _labels(teacher)
    if settings.student is not None and names and begun and begun != names:
        yield "student", other_labels(begun, names).removeprefix("student: ")
    if settings.teacher is not None and named and names and sorted(named) != sorted(names):
        yield (
            "teacher",
            f"its labels are {list(named)}, the model's {list(names)}; they must be the same, so "
            f"take another teacher or correct id2label in its config.json",
        )
    narrow, wide = width_of(student.config), width_of(teacher.config)
    if narrow is None or wide is None:
        return
    if settings.hidden_weight > 0 and narrow > wide:
        yield (
            "hidden_weight",
            f"projects the student's hidden states onto the teacher's, but the student is wider: "
            f"{narrow} numbers a token, the teacher has {wide}; set it to 0, or use "
            f"relation_weight",
        )


def _labels(files: CheckpointFiles) -> tuple[str, ...] | None:
    """Return the labels of a checkpoint that was saved with the head of a task that names them."""
    heads = [task_class(name).head for name in task_names() if task_class(name).names_labels]
    has_head = any(name.endswith(head) for name in files.architectures for head in heads)
    return files.labels if has_head and not (files.directory / MODULES).is_file() else None
