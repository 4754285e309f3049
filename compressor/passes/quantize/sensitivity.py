"""Sensitivity of each weight to int8, and which weights stay in float because of it.

Each weight is quantized alone, with its activations as the pass would quantize them, and the logits
are compared with those of the float graph on the same rows. Without labels: a logit that moves is
what may later be a wrong prediction, and shows long before one does. Errors of weights add up
nearly as if they were independent, so those that move the logits most for each byte they save are
the first to leave in float (Dong et al. 2019, arXiv:1905.03696, rank layers for the same purpose).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from onnx import numpy_helper

from compressor.models.components import layer_of
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.embedding_tables import NO_INT4, Int4Tables, store_weights
from compressor.onnx_graph.int8_weights import Activations
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.qdq import SignedScales
from compressor.onnx_graph.quantizable_weights import QuantizableWeight
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import encoder, in_batches, sampled_rows
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.settings import SensitiveSettings
from compressor.tasks import Batch, Outputs, Task
from compressor.words import listing

_ROWS = 128  # of the calibration split, evenly spread
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Sensitivity:
    """One weight quantized alone: the root-mean-square change of the logits, and of predictions.

    Vectors are no predictions that change or not, so of them `flips` is None.
    """

    weight: QuantizableWeight
    logit_rms: float
    flips: int | None
    bytes_saved: int  # scales of the int8 form included

    @property
    def error_per_byte(self) -> float:
        """Return what a byte saved costs; infinite where nothing is saved."""
        return self.logit_rms / self.bytes_saved if self.bytes_saved > 0 else float("inf")

    def fact(self, kept: Sequence[str]) -> dict[str, object]:
        """Return the sensitivity as plain data."""
        return {
            "name": self.weight.name,
            "layer": layer_of(self.weight.name),
            "logit_rms": self.logit_rms,
            "flips": self.flips,
            "bytes_saved": self.bytes_saved,
            "kept_in_float": self.weight.name in kept,
        }


def weights_to_keep(
    quantization: Quantization[SensitiveSettings],
    *,
    activations: Activations | SignedScales,
    tables: Int4Tables = NO_INT4,
) -> tuple[str, ...]:
    """Return the `keep_sensitive` weights that cost most a byte, and record what each one costs.

    Where none is to be kept nothing is measured, and one weight at least is left out. Raises
    `StepFailed` when the logits are not finite.
    """
    count, weights = quantization.settings.keep_sensitive, quantization.weights
    context, graph = quantization.context, quantization.graph
    if count == 0:
        return ()
    runner = GraphRunner(quantization.model, context)
    reference, size = runner.outputs(graph), weight_bytes(graph)
    found = []
    with context.progress.bar("sensitivity", len(weights)) as advance:
        for weight in weights:
            variant = quantized_alone(graph, weight, activations=activations, tables=tables)
            rms, flips = runner.change(reference, variant)
            found.append(Sensitivity(weight, rms, flips, size - weight_bytes(variant)))
            advance(1, f"logits move by {rms:.2g}, {weight.name}")
    kept = most_sensitive(found, min(count, len(weights) - 1))
    context.record("sensitivity", [item.fact(kept) for item in found])
    return kept


def note_kept(kept: Sequence[str], context: PassContext) -> None:
    """Note which weights stay in float because they are sensitive."""
    if kept:
        context.note(f"Left in float, the most sensitive for each byte: {listing(kept)}.")


def most_sensitive(found: Iterable[Sensitivity], count: int) -> tuple[str, ...]:
    """Return the `count` weights with the largest error for each byte saved, the worst first."""
    ranked = sorted(found, key=lambda item: item.error_per_byte, reverse=True)
    return tuple(item.weight.name for item in ranked[:count])


def quantized_alone(
    model: onnx.ModelProto,
    weight: QuantizableWeight,
    *,
    activations: Activations | SignedScales,
    tables: Int4Tables = NO_INT4,
) -> onnx.ModelProto:
    """Return a copy of the float graph `model` in which `weight` alone is int8, or int4."""
    variant = onnx.ModelProto()
    variant.CopyFrom(model)
    store_weights(variant, [weight], activations=activations, tables=tables)
    return variant


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of the constants of a graph whose weights are in memory."""
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)


def compare_outputs(task: Task, before: Outputs, after: Outputs) -> tuple[float, int | None]:
    """Return the root-mean-square difference, and for how many rows the prediction is another one.

    The second is None where outputs are no predictions that change or stay. Raises `ValueError`
    when they are not of one shape, `StepFailed` when one is not finite.
    """
    error, changed = task.error(before, after), task.changed(before, after)
    return error, None if changed is None else int(changed.sum())


class GraphRunner:
    """Writes graphs to the pass's own folder and runs up to 128 calibration rows there."""

    def __init__(self, model: OnnxModel, context: PassContext) -> None:
        self._path: Path = context.work_dir / "sensitivity" / "model.onnx"
        self._model = model
        examples, _ = sampled_rows(context, _ROWS)
        encode = encoder(context)
        self.task: Task = encode.task
        self.batches: list[Batch] = in_batches(examples, _BATCH_SIZE, encode)

    def change(self, reference: Outputs, graph: onnx.ModelProto) -> tuple[float, int | None]:
        """Return how far the outputs of `graph` are from `reference`, as `compare_outputs` does."""
        return compare_outputs(self.task, reference, self.outputs(graph))

    def outputs(self, graph: onnx.ModelProto) -> Outputs:
        """Return what `graph` gives for all rows."""
        save_graph(graph, self._path)
        # Kept engines belong to one graph: they are found by names, and not by weights.
        settings = replace(self._model.settings, cache_dir=None)
        opened = replace(self._model, path=self._path, settings=settings)
        return self.task.predicted(opened.predict, self.batches)
