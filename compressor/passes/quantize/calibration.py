"""Runs calibration rows through a float graph and watches its activations, batch by batch.

No padding is ever computed: rows of a batch have the same number of tokens. Only one batch of
activations is in memory at a time, of a bounded number of tokens, so memory does not grow with the
number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from compressor.errors import StepFailed
from compressor.models.onnx_model import open_session
from compressor.onnx_graph.onnx_file import save_graph
from compressor.passes.base import ENOUGH_TO_OBSERVE, PassContext
from compressor.training.batches import length_of
from compressor.words import counted

if TYPE_CHECKING:
    from compressor.data import Dataset
    from compressor.models.onnx_model import OnnxModel
    from compressor.tasks import Batch, Example

_ROWS_READ = 64  # that are tokenized at once; of them, those of equal length run together
_TOKENS = 1024  # in a batch, at most, if one row alone does not have more
_MASK = "attention_mask"


class Statistics(Protocol):
    """Running facts about one activation, of a size that does not grow with rows."""

    def update(self, values: NDArray[np.float32]) -> None:
        """Take `values` into account; raises `StepFailed` when one is not finite."""


Watched = TypeVar("Watched", bound=Statistics)


@dataclass(frozen=True)
class Calibration(Generic[Watched]):
    """What was observed: statistics of each activation by name, and on how much text."""

    statistics: dict[str, Watched]
    num_rows: int
    num_borrowed: int  # rows of the train split among them

    @property
    def rows_words(self) -> str:
        """Say what was read, such as `32 calibration rows, 30 of them of the train split`."""
        words = counted(self.num_rows, "calibration row")
        if not self.num_borrowed:
            return words
        return f"{words}, {self.num_borrowed:,} of them of the train split"


def calibrate(
    graph: onnx.ModelProto,
    values: Collection[str],
    *,
    num_rows: int,
    model: OnnxModel,
    context: PassContext,
    watch: Callable[[], Watched],
) -> Calibration[Watched]:
    """Observe `values`, activations of the float `graph`, on rows of the calibration split.

    `watch` makes what remembers one of them.

    The rows, at most `num_rows`, are spread evenly over the split. Padding is never among them.
    Where the split has fewer than are enough, spare rows of train fill it up.

    Raises `StepFailed` when a value is not finite.
    """
    rows = filled_up(context.calibration, num_rows)
    examples = calibration_rows(rows, num_rows)
    statistics = {name: watch() for name in values}
    path = context.work_dir / "calibration" / "model.onnx"
    _save_with_outputs(graph, list(values), path)
    session = open_session(path, model.provider, threads=model.threads, keeps_memory=False)
    wanted = {item.name for item in session.get_inputs()}
    read = (context.load_exported or context.load_baseline)()
    with context.progress.bar("calibrating", len(examples)) as advance:
        for start in range(0, len(examples), _ROWS_READ):
            chunk = examples[start : start + _ROWS_READ]
            for batch in unpadded(read.task.encode(read.preprocessor, chunk)):
                feed = {name: value for name, value in batch.items() if name in wanted}
                computed = [name for name in values if name not in feed]
                # Without names, ONNX Runtime would compute and give all outputs.
                results = session.run(computed, feed) if computed else []
                found = dict(zip(computed, results, strict=True))
                for name, watched in statistics.items():
                    _update(watched, name, {**feed, **found}[name])
            advance(len(chunk))
    return Calibration(statistics, len(examples), len(rows) - len(context.calibration))


def filled_up(dataset: Dataset, num_rows: int) -> Dataset:
    """Return a calibration split with spare rows of train, where it is too small to observe on."""
    missing = min(num_rows, ENOUGH_TO_OBSERVE) - len(dataset)
    return dataset.joined(missing) if missing > 0 else dataset


def calibration_rows(dataset: Dataset, num_rows: int) -> list[Example]:
    """Return at most `num_rows` of a split, evenly spread over it, the shortest first."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(num_rows, len(dataset))).round())
    return sorted((dataset.examples[int(row)] for row in chosen), key=length_of)


def unpadded(batch: Batch) -> Iterator[Batch]:
    """Yield the rows of `batch` in batches without padding: rows of one mask run together.

    Every array shaped like the attention mask loses the columns that are padding there. Where there
    is no mask, nothing is padded.
    """
    mask = batch.get(_MASK)
    if mask is None:
        yield batch
        return
    patterns, which = np.unique(mask != 0, axis=0, return_inverse=True)
    for number, kept in enumerate(patterns):
        rows = np.flatnonzero(which.reshape(-1) == number)
        per_batch = max(1, _TOKENS // max(1, int(kept.sum())))
        for start in range(0, len(rows), per_batch):
            chosen = rows[start : start + per_batch]
            yield {
                name: value[chosen][:, kept] if value.shape == mask.shape else value[chosen]
                for name, value in batch.items()
            }


def _update(watched: Statistics, name: str, values: NDArray[np.float32]) -> None:
    try:
        watched.update(values)
    except StepFailed as error:
        raise StepFailed(f"activations {name} {error}") from error


def _save_with_outputs(graph: onnx.ModelProto, values: Sequence[str], path: Path) -> None:
    """Write the graph to `path` with `values` among its outputs."""
    observed = onnx.ModelProto()
    observed.CopyFrom(graph)
    known = {item.name for item in (*observed.graph.input, *observed.graph.output)}
    observed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in values if name not in known
    )
    save_graph(observed, path)
