"""Shows that an exported file computes the logits of the PyTorch model, on real inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compressor.errors import ExportError, ParityError, shortened
from compressor.machine.memory import is_out_of_memory
from compressor.measurements import Parity
from compressor.models.onnx_model import OnnxModel
from compressor.runtime.session import SESSION_FAILURES
from compressor.tasks import Batch, Task

# Of the largest output: sums in another order differ by a few millionths of it, which is more than
# any fixed limit where numbers are large, such as prices.
_ROUNDING = 1e-5
_MOST_CHARACTERS = 400  # of what ONNX Runtime says


class Reference(Protocol):
    """What the exported file is compared with."""

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 logits, the first axis is the batch."""


def check_parity(
    reference: Reference,
    exported: OnnxModel,
    batches: Sequence[Batch],
    limit: float,
    *,
    task: Task | None = None,
) -> Parity:
    """Return the largest difference between the logits of the two over `batches`.

    `task` says what of an array belongs to a row; None where that is all of the row.

    Give batches of several sizes and lengths, padded rows among them: exports that are wrong are
    often right for the shape they were traced with.

    Where outputs are larger than `limit` times 100,000, what their rounding takes is allowed too:
    a hundred-thousandth of the largest.

    Raises `ParityError` when a logit differs by more than that, when shapes differ, and when a
    logit is not finite, `ExportError` when the file cannot compute a batch, and `ValueError`
    without batches, because nothing would have been shown.
    """
    if not batches:
        raise ValueError("parity needs at least one batch")
    found = [_difference(reference, exported, batch, limit, task) for batch in batches]
    differences = [difference for difference, _ in found]
    largest = max(differences)
    limit = max(limit, _ROUNDING * max(output for _, output in found))
    if largest > limit:
        worst = batches[differences.index(largest)]
        raise ParityError(
            f"{exported.path} on {exported.provider}, inputs of shape {_shape(worst)}",
            max_abs_diff=largest,
            limit=limit,
        )
    lengths = {value.shape[1] for batch in batches for value in batch.values() if value.ndim == 2}
    return Parity(
        max_abs_diff=largest,
        limit=limit,
        num_examples=sum(_shape(batch)[0] for batch in batches),
        sequence_lengths=tuple(sorted(lengths)),
    )


def _difference(
    reference: Reference, exported: OnnxModel, batch: Batch, limit: float, task: Task | None
) -> tuple[float, float]:
    """Return the largest difference, and the largest output of the reference."""
    expected, found = reference.predict(batch), _computed(exported, batch)
    if expected.shape != found.shape:
        raise ParityError(
            f"{exported.path}: logits of shape {found.shape} instead of {expected.shape}",
            max_abs_diff=float("nan"),
            limit=limit,
        )
    if task is not None:
        expected, found = (
            np.concatenate([np.ravel(row) for row in task.without_padding(item, batch)])
            for item in (expected, found)
        )
    # NaN compares false with every limit, so it is looked for, in both.
    for logits, owner in ((expected, "the PyTorch model"), (found, str(exported.path))):
        if not np.isfinite(logits).all():
            raise ParityError(
                f"{owner} gives logits that are not finite for inputs of shape {_shape(batch)}",
                max_abs_diff=float("nan"),
                limit=limit,
            )
    exact = expected.astype(np.float64)
    return float(np.max(np.abs(exact - found))), float(np.max(np.abs(exact)))


def _computed(exported: OnnxModel, batch: Batch) -> NDArray[np.float32]:
    """Return the logits of the file; a graph can be right for the traced batch and fail at one."""
    try:
        return exported.predict(batch)
    except SESSION_FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise ExportError(
            f"{exported.path} on {exported.provider} cannot compute inputs of shape "
            f"{_shape(batch)}, which the PyTorch model can: {shortened(error, _MOST_CHARACTERS)}; "
            f"if the untouched checkpoint's file can, the passes before the export are the cause, "
            f"otherwise this architecture is not supported"
        ) from error


def _shape(batch: Batch) -> tuple[int, ...]:
    shape: tuple[int, ...] = next(iter(batch.values())).shape
    return shape
