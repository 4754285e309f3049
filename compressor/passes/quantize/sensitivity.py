"""What each weight costs in accuracy when it becomes int8, and which are left in float therefore.

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

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compressor.errors import StepFailed
from compressor.models.components import layer_of
from compressor.models.onnx_model import OUTPUT, OnnxModel
from compressor.onnx_graph.embedding_tables import NO_INT4, Int4Tables, store_weights
from compressor.onnx_graph.int8_weights import Activations
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.qdq import SignedScales
from compressor.onnx_graph.quantizable_weights import QuantizableWeight
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import encoder, in_batches, sampled_rows
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.settings import SensitiveSettings
from compressor.tasks import Batch
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
    reference, size = runner.logits(graph), weight_bytes(graph)
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


def compare_outputs(
    model: OnnxModel, reference: NDArray[np.float32], changed: NDArray[np.float32]
) -> tuple[float, int | None]:
    """Return the change of what a model like `model` gives, as `compare_logits` does."""
    return compare_logits(reference, changed, are_vectors=model.output_name != OUTPUT)


def compare_logits(
    reference: NDArray[np.float32], changed: NDArray[np.float32], *, are_vectors: bool = False
) -> tuple[float, int | None]:
    """Return the root-mean-square difference and the number of rows whose arg-max differs.

    Both are `(rows, num_labels)`; vectors `(rows, width)` have no arg-max that means anything, so
    of them the second is None. Raises `ValueError` when they are not of one shape or not finite.
    """
    if reference.shape != changed.shape:
        raise ValueError(f"logits of shapes {reference.shape} and {changed.shape} do not pair up")
    difference = reference.astype(np.float64) - changed
    if not np.isfinite(difference).all():
        raise StepFailed("logits hold NaN or infinity")
    rms = float(np.sqrt(np.mean(np.square(difference))))
    if are_vectors:
        return rms, None
    return rms, int(np.sum(reference.argmax(axis=1) != changed.argmax(axis=1)))


class GraphRunner:
    """Writes graphs to the pass's own folder and runs up to 128 calibration rows there."""

    def __init__(self, model: OnnxModel, context: PassContext) -> None:
        self._path: Path = context.work_dir / "sensitivity" / "model.onnx"
        self._model = model
        examples, _ = sampled_rows(context, _ROWS)
        self.batches: list[Batch] = in_batches(examples, _BATCH_SIZE, encoder(context))

    def change(
        self, reference: NDArray[np.float32], graph: onnx.ModelProto
    ) -> tuple[float, int | None]:
        """Return how far the outputs of `graph` are from `reference`, as `compare_outputs` does."""
        return compare_outputs(self._model, reference, self.logits(graph))

    def logits(self, graph: onnx.ModelProto) -> NDArray[np.float32]:
        """Return the logits of all batches."""
        save_graph(graph, self._path)
        # Kept engines belong to one graph: they are found by names, and not by weights.
        settings = replace(self._model.settings, cache_dir=None)
        opened = replace(self._model, path=self._path, settings=settings)
        return np.concatenate([opened.predict(batch) for batch in self.batches])
