"""Which layers a smaller student gets, and which layers of the teacher it learns from.

Free of torch. Layers are counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def chosen_layers(wanted: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Return which of `depth` layers a student is made of.

    A number is spread evenly and keeps the last layer, whose output the head reads; a list is
    taken as it is.

    Raises `ValueError` when the model has not that many layers.

    >>> chosen_layers(3, 6)
    (1, 3, 5)
    """
    if isinstance(wanted, int):
        if wanted >= depth:
            raise ValueError(
                f"student_layers: the model has {depth} layers, so a smaller student has fewer, "
                f"got {wanted}; leave student_layers out to keep all"
            )
        return tuple(layer for _, layer in uniform_layer_map(wanted, depth))
    if max(wanted) >= depth:
        raise ValueError(
            f"student_layers: the model has layers 0 to {depth - 1}, got {list(wanted)}"
        )
    return tuple(wanted)
