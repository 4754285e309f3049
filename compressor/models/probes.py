"""Checks that a row's prediction depends on no other row, and not on what was read before.

A mask that is ignored, positions that are counted through padding, padding where a model looks for
the text: none of it shows on one text, and none of it shows when an exported file is compared with
PyTorch, because both are wrong alike. It shows when the same rows are read in several ways.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.models.predict import Predictor
from compressor.tasks import Batch, Task
from compressor.words import counted

# Of the largest output: sums in another order differ by a few millionths of it, and padding that is
# read as text by a hundredth or more.
TOLERANCE = 2e-3
_LEAST = 0.1  # outputs that are all smaller are compared as if the largest were this
_MASK = "attention_mask"

Outputs = NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """One batch of a few real rows; `rows` names them, so that a row is found in other probes.

    `other_side` is a batch whose padding lies on the other side than the tokenizer's. Models that
    count positions from the left give other outputs then, and none of their users asks for them.
    """

    inputs: Batch
    rows: tuple[int, ...]
    other_side: bool = False


class RowDependence(ValueError):
    """A row's outputs depend on more than the row: `difference` is by how much, `why` says how."""

    def __init__(self, difference: float, why: str) -> None:
        self.difference = difference
        self.why = why
        super().__init__(why)


@dataclass(frozen=True)
class Readings:
    """The probes on which a model predicts as it should, and its outputs for each of them."""

    probes: tuple[Probe, ...]
    outputs: tuple[Outputs, ...]

    def predict(self, batch: Batch) -> Outputs:
        """Return the outputs of a probe's inputs, which were computed before."""
        found = next(index for index, probe in enumerate(self.probes) if probe.inputs is batch)
        return self.outputs[found]


def read_probes(
    predictor: Predictor, probes: Sequence[Probe], task: Task | None = None
) -> Readings:
    """Let a model that was just loaded read `probes` in their order, and return what it gave.

    `task` says what of an array belongs to a row; None where that is all of the row. Probes with
    the padding on the other side are left out where the model tells the sides apart.

    Raises `RowDependence` when a row's outputs differ between two probes.
    """
    first: dict[int, tuple[Outputs, Probe]] = {}
    kept: list[tuple[Probe, Outputs]] = []
    for probe in probes:
        outputs = predictor.predict(probe.inputs)
        if not np.isfinite(outputs).all():
            kept.append((probe, outputs))  # a fault of another kind, which the caller names
            continue
        own = outputs if task is None else task.without_padding(outputs, probe.inputs)
        differences = [
            (_difference(own[place], first[row][0]), row)
            for place, row in enumerate(probe.rows)
            if row in first
        ]
        worst, row = max(differences, default=(0.0, -1))
        if worst > TOLERANCE:
            if probe.other_side:
                continue
            raise RowDependence(worst, _told(worst, first[row][1], probe))
        for place, row in enumerate(probe.rows):
            first.setdefault(row, (own[place], probe))
        kept.append((probe, outputs))
    return Readings(tuple(probe for probe, _ in kept), tuple(outputs for _, outputs in kept))


def with_padding_moved(batch: Batch) -> Batch | None:
    """Return a batch whose rows have their padding at the other end; None where none is padded."""
    mask = batch.get(_MASK)
    if mask is None or mask.all():
        return None
    moved = copy.copy(batch)  # of a task's own class, which knows what its rows are
    moved.update({name: value.copy() for name, value in batch.items()})
    for name, row, shift in _shifts(batch, mask):
        moved[name][row] = np.roll(batch[name][row], shift)
    return moved


def _shifts(batch: Batch, mask: NDArray[np.int64]) -> Iterator[tuple[str, int, int]]:
    """Yield by how much the row of an input has to turn, for those that have a token axis."""
    for row, kept in enumerate(mask.astype(bool)):
        padding = int(np.sum(~kept))
        shift = padding if kept[0] else -padding
        for name, value in batch.items():
            if value.shape == mask.shape:
                yield name, row, shift


def _difference(found: Outputs, before: Outputs) -> float:
    """Return the largest difference of two rows, as a share of the largest output."""
    scale = max(_LEAST, float(np.abs(before).max()))
    return float(np.abs(found.astype(np.float64) - before).max()) / scale


def _told(worst: float, before: Probe, after: Probe) -> str:
    if len(after.rows) == 1:
        how = "when it is read again after others, so the model remembers what it read"
    else:
        size = next(iter(after.inputs.values())).shape
        padded = f" padded to {counted(size[1], 'token')}" if len(size) == 2 else ""
        how = f"in a batch of {len(after.rows)}{padded}"
    alone = "by itself" if len(before.rows) == 1 else f"in a batch of {len(before.rows)}"
    return f"a row's outputs {how} differ from those {alone} by {worst:.2g} of the largest output"
