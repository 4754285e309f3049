"""Measures which weights a pass leaves in float, on unlabelled calibration rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from compressor.models.components import layer_of
from compressor.models.onnx_model import OUTPUT, OnnxModel
from compressor.onnx_graph.embedding_tables import NO_INT4, Int4Tables
from compressor.onnx_graph.int8_weights import Activations
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.qdq import SignedScales
from compressor.onnx_graph.quantizable_weights import QuantizableWeight
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import filled_up
from compressor.passes.quantize.weight_sensitivity import (
    Sensitivity,
    compare_logits,
    most_sensitive,
    quantized_alone,
    weight_bytes,
)
from compressor.training.batches import length_of

if TYPE_CHECKING:
    from compressor.tasks import Batch

_ROWS = 128  # of the calibration split, evenly spread
_BATCH_SIZE = 32


def weights_to_keep(
    graph: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    count: int,
    *,
    activations: Activations | SignedScales,
    tables: Int4Tables = NO_INT4,
    model: OnnxModel,
    context: PassContext,
) -> tuple[QuantizableWeight, ...]:
    """Return the `count` of `weights` that cost most for each byte, and record each one's cost.

    Without a count nothing is measured, and one weight at least is left out. Raises `StepFailed`
    when the logits are not finite.
    """
    if count == 0:
        return ()
    batches = calibration_rows(context)
    runner = GraphRunner(model, context.work_dir, batches)
    reference, size = runner.logits(graph), weight_bytes(graph)
    found = []
    with context.progress.bar("sensitivity", len(weights)) as advance:
        for weight in weights:
            variant = quantized_alone(graph, weight, activations=activations, tables=tables)
            rms, flips = runner.change(reference, variant)
            found.append(Sensitivity(weight, rms, flips, size - weight_bytes(variant)))
            advance(1, f"logits move by {rms:.2g}, {weight.name}")
    kept = most_sensitive(found, min(count, len(weights) - 1))
    context.record("sensitivity", [_fact(item, kept) for item in found])
    return kept


def _fact(item: Sensitivity, kept: Sequence[QuantizableWeight]) -> dict[str, object]:
    return {
        "name": item.weight.name,
        "layer": layer_of(item.weight.name),
        "logit_rms": item.logit_rms,
        "flips": item.flips,
        "bytes_saved": item.bytes_saved,
        "kept_in_float": item.weight in kept,
    }


def calibration_rows(context: PassContext) -> list[Batch]:
    """Return up to 128 rows of the calibration split, evenly spread, in batches of like length.

    Few rows are filled up as by `calibrate`, where the pass may borrow any.
    """
    dataset = filled_up(context.calibration, _ROWS)
    read = (context.load_exported or context.load_baseline)()
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(_ROWS, len(dataset))).round())
    examples = sorted((dataset.examples[int(row)] for row in chosen), key=length_of)
    return [
        read.task.encode(read.preprocessor, examples[start : start + _BATCH_SIZE])
        for start in range(0, len(examples), _BATCH_SIZE)
    ]


class GraphRunner:
    """Writes a graph to the pass's own folder and runs it there."""

    def __init__(self, model: OnnxModel, work_dir: Path, batches: Sequence[Batch]) -> None:
        self._path = work_dir / "sensitivity" / "model.onnx"
        self._model, self._batches = model, batches

    def change(
        self, reference: NDArray[np.float32], graph: onnx.ModelProto
    ) -> tuple[float, int | None]:
        """Return how far the outputs of `graph` are from `reference`, as `compare` does."""
        return self.compare(reference, self.logits(graph))

    def compare(
        self, reference: NDArray[np.float32], changed: NDArray[np.float32]
    ) -> tuple[float, int | None]:
        """Return the change as `compare_logits` does; of vectors no answer flips."""
        are_vectors = self._model.output_name != OUTPUT
        return compare_logits(reference, changed, are_vectors=are_vectors)

    def logits(self, graph: onnx.ModelProto) -> NDArray[np.float32]:
        """Return the logits of all batches."""
        save_graph(graph, self._path)
        # Kept engines belong to one graph: they are found by names, and not by weights.
        settings = replace(self._model.settings, cache_dir=None)
        opened = replace(self._model, path=self._path, settings=settings)
        return np.concatenate([opened.predict(batch) for batch in self._batches])
