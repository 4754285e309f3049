"""Which layers a smaller student gets, and which layers of the teacher it learns from.

Free of torch. Layers are counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from compressor.errors import StepFailed
from compressor.words import counted

# Pairs (student layer, teacher layer).
LayerMap = Sequence[tuple[int, int]]


def uniform_layer_map(student_layers: int, teacher_layers: int) -> LayerMap:
    """Return pairs that spread the student's layers evenly and end with the last of both.

    With no more `student_layers` than `teacher_layers`, no teacher layer is used twice.

    Ref: the uniform strategy of TinyBERT, Jiao et al. 2020, arXiv:1909.10351, section 3.2.

    >>> uniform_layer_map(3, 12)
    ((0, 3), (1, 7), (2, 11))
    """
    # Negated twice, the floor division rounds up.
    ends = (-(-layer * teacher_layers // student_layers) for layer in range(1, student_layers + 1))
    return tuple((layer, end - 1) for layer, end in enumerate(ends))


def layer_map_of(
    wanted: Literal["uniform", "first", "last"] | LayerMap, student_layers: int, teacher_layers: int
) -> LayerMap:
    """Return the pairs that a recipe asks for; explicit pairs are taken as they are.

    `first` compares the student's layers with as many of the teacher's first, `last` with its last.

    Raises `StepFailed` when a pair is out of range, or `first` or `last` are asked for with a
    student that has more layers than the teacher.

    >>> layer_map_of("last", 2, 6)
    ((0, 4), (1, 5))
    """
    if wanted == "uniform":
        return uniform_layer_map(student_layers, teacher_layers)
    if isinstance(wanted, str):
        if student_layers > teacher_layers:
            raise StepFailed(
                f"layer_map: '{wanted}' needs as many teacher layers as the student has, but the "
                f"student has {student_layers} and the teacher {teacher_layers}; use uniform or "
                f"list the pairs"
            )
        shift = teacher_layers - student_layers if wanted == "last" else 0
        return tuple((layer, layer + shift) for layer in range(student_layers))
    check_layer_map(wanted, student_layers, teacher_layers)
    return wanted


def check_layer_map(pairs: LayerMap, student_layers: int, teacher_layers: int) -> None:
    """Raise `StepFailed` when a pair names a layer that is not there."""
    for own, other in pairs:
        if not (0 <= own < student_layers and 0 <= other < teacher_layers):
            raise StepFailed(
                f"layer_map: {(own, other)} is out of range; the student has {student_layers} "
                f"layers and the teacher {teacher_layers}, counted from 0"
            )


def chosen_layers(wanted: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Return which of `depth` layers a student is made of.

    A number is spread evenly and keeps the last layer, whose output the head reads; a list is
    taken as it is.

    Raises `StepFailed` when the model has not that many layers.

    >>> chosen_layers(3, 6)
    (1, 3, 5)
    """
    if isinstance(wanted, int):
        if wanted >= depth:
            raise StepFailed(
                f"student_layers: the model has {counted(depth, 'layer')}, so a smaller student "
                f"has fewer, got {wanted}; leave student_layers out to keep all"
            )
        return tuple(layer for _, layer in uniform_layer_map(wanted, depth))
    if max(wanted) >= depth:
        raise StepFailed(
            f"student_layers: the model has layers 0 to {depth - 1}, got {list(wanted)}"
        )
    return tuple(wanted)
