"""A student's vectors in its teacher's space: a linear map from the one width to the other.

The map becomes part of the student, as a Dense step after pooling, so that the artifact's vectors
can be compared with those that the teacher made. It begins at the least squares of both on texts of
the training split, and is trained with the student.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.data import Dataset
from compressor.data.sampling import drawn_by_chance
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.progress import Progress
from compressor.tasks import length_of

_MOST_ROWS = 2048
_ROWS_PER_BATCH = 32
_RIDGE = 1e-3  # of the mean diagonal of the Gram matrix


@dataclass(frozen=True)
class Alignment:
    """What was put behind a student's vectors: none where they have the teacher's width already.

    `cosine` is the mean similarity to the teacher's vectors that the map alone gives, on the rows
    that it was fitted on.
    """

    student_width: int
    teacher_width: int
    rows: int
    cosine: float

    def sentence(self) -> str:
        """Return the facts as a note for the report."""
        return (
            f"vectors of {self.student_width:,} numbers go through a matrix, which ships, to the "
            f"teacher's {self.teacher_width:,}; fitted by least squares on {self.rows:,} rows of "
            f"the train split it begins at a mean cosine of {self.cosine:.4f}"
        )


def needs_map(student: TorchModel, teacher: TorchModel) -> bool:
    """Return whether the two give vectors of different width."""
    own, other = (each.task.vector_width(each.module.config) for each in (student, teacher))
    return own != other


def unfitted(student: TorchModel, teacher: TorchModel) -> TorchModel:
    """Return a copy of `student` whose vectors have the teacher's width; raises as `aligned`."""
    changed = student.clone()
    own, other = (each.task.vector_width(each.module.config) for each in (student, teacher))
    _put_behind(changed, teacher, nn.Linear(own, other))
    return changed


def aligned(
    student: TorchModel, teacher: TorchModel, dataset: Dataset, seed: int, progress: Progress
) -> Alignment:
    """Put a map to the teacher's vectors behind those of `student`, in place.

    Vectors are scaled to length 1 afterwards where the teacher's are, and not before.

    Raises `StepFailed` where a task's vectors cannot be mapped, or are not finite.
    Ref: Vujanic & Rueckstiess 2025, arXiv:2509.12539, section 3 (the map; there drawn).
    """
    _put_behind(student, teacher, None, normalize=False)
    rows = drawn_by_chance(len(dataset), _MOST_ROWS, seed)
    order = sorted(rows, key=lambda row: length_of(dataset.examples[row]))
    own: list[NDArray[np.float32]] = []
    other: list[NDArray[np.float32]] = []
    with progress.bar("fitting the student's vectors", len(order)) as advance:
        for start in range(0, len(order), _ROWS_PER_BATCH):
            examples = [dataset.examples[row] for row in order[start : start + _ROWS_PER_BATCH]]
            for model, found in ((student, own), (teacher, other)):
                found.append(model.predict(model.task.encode(model.preprocessor, examples)))
            advance(len(examples))
    ours, theirs = np.concatenate(own), np.concatenate(other)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise StepFailed(
            f"alignment: {dataset.source}: vectors of the student or the teacher are not finite; "
            f"check both checkpoints"
        )
    weight, bias = fitted(ours, theirs)
    linear = nn.Linear(ours.shape[1], theirs.shape[1])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(weight))
        linear.bias.copy_(torch.from_numpy(bias))
    _put_behind(student, teacher, linear)
    begun = ours @ weight.T + bias
    lengths = np.linalg.norm(begun, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (begun * theirs).sum(axis=1) / np.maximum(lengths, 1e-12)
    return Alignment(ours.shape[1], theirs.shape[1], len(order), float(cosines.mean()))


def fitted(
    inputs: NDArray[np.float32], outputs: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weight `(out, in)` and bias `(out,)` of the ridge regression of outputs on inputs."""
    x, y = inputs.astype(np.float64), outputs.astype(np.float64)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred = x - mean_x
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += _RIDGE * max(float(np.diag(gram).mean()), 1e-12)
    weight = np.linalg.solve(gram, centred.T @ (y - mean_y)).T
    return weight.astype(np.float32), (mean_y - weight @ mean_x).astype(np.float32)


def _put_behind(
    student: TorchModel, teacher: TorchModel, linear: nn.Linear | None, *, normalize: bool = True
) -> None:
    length_1 = normalize and teacher.task.scales_vectors(teacher.module)
    if linear is not None:
        linear.to(student.device)
    try:
        student.task.map_vectors(student.module, linear, normalize=length_1)
    except ValueError as error:
        raise StepFailed(f"alignment: {error}; take a student of the teacher's width") from error
