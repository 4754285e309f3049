"""Runs calibration rows through a float graph and observes its activations, batch by batch.

No padding is ever computed: rows of a batch have the same number of tokens. Only one batch of
activations is in memory at a time, of a bounded number of tokens, so memory does not grow with the
number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.data.sampling import evenly_spread
from compressor.errors import StepFailed
from compressor.models.onnx_model import open_session
from compressor.models.preprocessor import Preprocessor
from compressor.onnx_graph.activation_ranges import signed_scale, static_scale
from compressor.onnx_graph.int8_weights import FixedScale
from compressor.onnx_graph.observers import ActivationStatistics, ChannelsFirstStatistics
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.qdq import OLDEST_OPSET
from compressor.onnx_graph.quantized_activations import SignedScale
from compressor.passes.base import ENOUGH_TO_OBSERVE, PassContext
from compressor.passes.quantize.quantization import Quantization, check_opset
from compressor.passes.quantize.settings import ObservingSettings, WeightSettings
from compressor.runtime.openvino_session import OPENVINO
from compressor.tasks import Batch, Example, Task, length_of
from compressor.words import counted

_ROWS_READ = 64  # that are tokenized at once; of them, those of equal length run together
_TOKENS = 1024  # in a batch, at most, if one row alone does not have more
_MASK = "attention_mask"


class Statistics(Protocol):
    """Running facts about one activation, of a size that does not grow with rows."""

    def update(self, values: NDArray[np.float32]) -> None:
        """Take `values` into account; raises `StepFailed` when one is not finite."""


Watched = TypeVar("Watched", bound=Statistics)
Chosen = TypeVar("Chosen")


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
    quantization: Quantization[WeightSettings],
    values: Collection[str],
    watch: Callable[[], Watched],
    *,
    num_rows: int,
    others: Mapping[str, Callable[[], Watched]] | None = None,
) -> Calibration[Watched]:
    """Observe `values`, activations of the float graph, on at most `num_rows` calibration rows.

    `watch` makes what remembers one of them, and `others` have their own. Padding is never among
    the rows.

    Raises `StepFailed` when a value is not finite.
    """
    model, context = quantization.model, quantization.context
    examples, num_borrowed = sampled_rows(context, num_rows)
    statistics = {name: watch() for name in values}
    statistics |= {name: watch_other() for name, watch_other in (others or {}).items()}
    values = tuple(statistics)
    path = context.work_dir / "calibration" / "model.onnx"
    _save_with_outputs(quantization.graph, list(values), path)
    # OpenVINO fuses less where values are read on the way; ONNX Runtime computes the same floats.
    provider = "cpu" if model.provider == OPENVINO else model.provider
    session = open_session(path, provider, threads=model.threads, keeps_memory=False)
    wanted = {item.name for item in session.get_inputs()}
    encode = encoder(context)
    with context.progress.bar("calibrating", len(examples)) as advance:
        for start in range(0, len(examples), _ROWS_READ):
            chunk = examples[start : start + _ROWS_READ]
            for batch in unpadded(encode(chunk)):
                feed = {name: value for name, value in batch.items() if name in wanted}
                computed = [name for name in values if name not in feed]
                # Without names, ONNX Runtime would compute and give all outputs.
                results = session.run(computed, feed) if computed else []
                found = dict(zip(computed, results, strict=True))
                for name, watched in statistics.items():
                    _update(watched, name, {**feed, **found}[name])
            advance(len(chunk))
    return Calibration(statistics, len(examples), num_borrowed)


def observe(quantization: Quantization[ObservingSettings]) -> Calibration[ActivationStatistics]:
    """Observe what the matrices multiply and what surrounds convolutions, on the settings' rows."""
    multiplied = quantization.activations
    images = [name for name in quantization.convolution_values if name not in multiplied]
    return calibrate(
        quantization,
        multiplied,
        ActivationStatistics,
        num_rows=quantization.settings.rows,
        others=dict.fromkeys(images, ChannelsFirstStatistics),
    )


def chosen_scales(
    found: Calibration[ActivationStatistics],
    settings: ObservingSettings,
    choose: Callable[..., Chosen],
) -> dict[str, Chosen]:
    """Return what `choose`, such as `static_scale`, makes of each activation by the method.

    Raises `StepFailed` for an activation that was never seen.
    """
    chosen = {}
    for name, statistics in found.statistics.items():
        try:
            chosen[name] = choose(statistics, settings.method, percentile=settings.percentile)
        except StepFailed as error:
            raise StepFailed(f"activations {name} {error}") from error
    return chosen


def fixed_scales(
    quantization: Quantization[ObservingSettings], found: Calibration[ActivationStatistics]
) -> dict[str, FixedScale]:
    """Return the scale of each activation: signed for OpenVINO, with a zero point elsewhere.

    OpenVINO multiplies two signed factors without correcting for a zero point: on MiniLM its int8
    matmuls took 7 to 9% less than with unsigned activations (one row, and 32). Raises `StepFailed`
    for an activation that was never seen.
    """
    settings = quantization.settings
    if quantization.model.provider != OPENVINO:
        return dict(chosen_scales(found, settings, static_scale))
    check_opset(quantization.graph, OLDEST_OPSET, "scales for each column of a weight")
    signed = chosen_scales(found, settings, signed_scale)
    return {name: SignedScale(scale) for name, scale in signed.items()}


def note_fixed_scales(
    quantization: Quantization[ObservingSettings], found: Calibration[ActivationStatistics]
) -> None:
    """Note how many activations have a fixed scale, and what it was chosen on."""
    quantization.context.note(
        f"Scales of {counted(len(found.statistics), 'activation')} fixed on {found.rows_words} "
        f"({quantization.settings.method})."
    )


def sampled_rows(context: PassContext, num_rows: int) -> tuple[list[Example], int]:
    """Return at most `num_rows` calibration rows, the shortest first, and how many are of train.

    They are spread evenly over the split. Where it has fewer than are enough to observe on, spare
    rows of train fill it up.
    """
    own = context.calibration
    missing = min(num_rows, ENOUGH_TO_OBSERVE) - len(own)
    rows = own.joined(missing) if missing > 0 else own
    return spread_rows(rows, num_rows), len(rows) - len(own)


def spread_rows(dataset: Dataset, num_rows: int) -> list[Example]:
    """Return at most `num_rows` of a split, evenly spread over it, the shortest first."""
    chosen = evenly_spread(len(dataset), num_rows)
    return sorted((dataset.examples[row] for row in chosen), key=length_of)


@dataclass(frozen=True)
class Encoder:
    """Encodes rows for a graph as the model that it was exported from reads them."""

    task: Task
    preprocessor: Preprocessor

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Return the examples as one padded batch."""
        return self.task.encode(self.preprocessor, examples)


def encoder(context: PassContext) -> Encoder:
    """Return what encodes rows for the graph that a pass changes."""
    read = (context.load_exported or context.load_baseline)()
    return Encoder(read.task, read.preprocessor)


def in_batches(examples: Sequence[Example], size: int, encode: Encoder) -> list[Batch]:
    """Return all rows, encoded `size` at a time."""
    starts = range(0, len(examples), size)
    return [encode(examples[start : start + size]) for start in starts]


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
