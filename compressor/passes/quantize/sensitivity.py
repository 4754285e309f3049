"""Sensitivity of each weight to int8, and which weights stay in float because of it.

Each weight is quantized alone, with its activations as the pass would quantize them, and the logits
are compared with those of the float graph on the same rows. Without labels: a logit that moves is
what may later be a wrong prediction, and shows long before one does. Errors of weights add up
nearly as if they were independent, so those that move the logits most for each byte they save are
the first to leave in float (Dong et al. 2019, arXiv:1905.03696, rank layers for the same purpose).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from compressor.models.components import layer_of
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.embedding_tables import NO_NARROW_TABLES, NarrowTables, store_weights
from compressor.onnx_graph.int8_weights import Activations
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.qdq import SignedScales
from compressor.onnx_graph.quantizable_weights import QuantizableWeight
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import encoder, in_batches, sampled_rows
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.settings import SensitiveSettings
from compressor.tasks import Batch, Outputs, Task
from compressor.words import counted, listing

_ROWS = 128  # of the calibration split, evenly spread
_ROWS_OF_TRIALS = 512  # of the same, where all weights are integers at once
MOST_CHANGED = 0.01  # of the predictions, for all of them together
LARGEST_ERROR = 0.15  # of the outputs, as a fraction of their spread: 1% of few rows is none
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
    tables: NarrowTables = NO_NARROW_TABLES,
) -> tuple[str, ...]:
    """Return the `keep_sensitive` weights that cost most a byte, and record what each one costs.

    Where none is to be kept nothing is measured, and one weight at least is left out. Raises
    `StepFailed` when the logits are not finite.
    """
    wanted, weights = quantization.settings.keep_sensitive, quantization.weights
    context, graph = quantization.context, quantization.graph
    if wanted == 0:
        return ()

    def stored(kept: Sequence[str]) -> onnx.ModelProto:
        rest = [weight for weight in weights if weight.name not in kept]
        return with_stored(graph, rest, activations=activations, tables=tables)

    if wanted == "auto":
        trials = _Trials(GraphRunner(quantization.model, context, _ROWS_OF_TRIALS), graph, stored)
        if trials.add(()).is_near:
            trials.tell(context)
            return ()
    found = _sensitivities(quantization, activations, tables)
    if wanted == "auto":
        ranked = most_to_blame(found)[:-1]
        kept = ranked[: trials.fewest(ranked)]
    else:
        kept = most_sensitive(found, min(wanted, len(weights) - 1))
    context.record("sensitivity", [item.fact(kept) for item in found])
    if wanted == "auto":
        trials.tell(context)
    return kept


def _sensitivities(
    quantization: Quantization[SensitiveSettings],
    activations: Activations | SignedScales,
    tables: NarrowTables,
) -> list[Sensitivity]:
    """Return what each weight alone costs."""
    context, graph, weights = quantization.context, quantization.graph, quantization.weights
    runner = GraphRunner(quantization.model, context, _ROWS)
    reference, size = runner.outputs(graph), weight_bytes(graph)
    found = []
    with context.progress.bar("sensitivity", len(weights)) as advance:
        for weight in weights:
            variant = quantized_alone(graph, weight, activations=activations, tables=tables)
            rms, flips = runner.change(reference, variant)
            found.append(Sensitivity(weight, rms, flips, size - weight_bytes(variant)))
            advance(1, f"logits move by {rms:.2g}, {weight.name}")
    return found


@dataclass(frozen=True)
class Trial:
    """All weights but some as integers: how far the outputs are from those of the float graph.

    `changed` is a fraction of the predictions, None of vectors; `error` a root mean square as a
    fraction of the spread of the outputs.
    """

    kept: tuple[str, ...]
    changed: float | None
    error: float

    @property
    def is_near(self) -> bool:
        """Return whether so few predictions change that no further weight has to stay in float."""
        return (self.changed or 0.0) <= MOST_CHANGED and self.error <= LARGEST_ERROR

    def __str__(self) -> str:
        """Return the trial in words."""
        share = "" if self.changed is None else f"{self.changed:.2%} of predictions changed, "
        in_float = counted(len(self.kept), "weight") if self.kept else "none"
        return f"{in_float} in float: {share}outputs off by {self.error:.1%} of their spread"

    def fact(self) -> dict[str, object]:
        """Return the trial as plain data."""
        return {"kept": len(self.kept), "changed": self.changed, "error": self.error}


class _Trials:
    """Tries which of the most sensitive weights have to stay in float, the fewest that do."""

    def __init__(
        self,
        runner: GraphRunner,
        graph: onnx.ModelProto,
        stored: Callable[[Sequence[str]], onnx.ModelProto],
    ) -> None:
        self._runner, self._stored = runner, stored
        self._reference = runner.outputs(graph)
        numbers = self._reference.numbers
        flat = numbers.reshape(-1, numbers.shape[-1]).astype(np.float64)
        # Of one number a row, and of rows that are all alike, the size itself.
        self._spread = float(np.sqrt(flat.var(axis=0).mean())) or float(np.abs(flat).max()) or 1.0
        self.found: list[Trial] = []

    def add(self, kept: tuple[str, ...]) -> Trial:
        rms, flips = self._runner.change(self._reference, self._stored(kept))
        changed = None if flips is None else flips / len(self._reference)
        self.found.append(Trial(kept, changed, rms / self._spread))
        return self.found[-1]

    def fewest(self, ranked: tuple[str, ...]) -> int:
        """Return how many of `ranked`, the worst first, have to stay; all where none is enough."""
        failed, count = 0, 1
        while count < len(ranked) and not self.add(ranked[:count]).is_near:
            failed, count = count, 2 * count
        if count >= len(ranked):
            count = len(ranked)
            if not self.add(ranked).is_near:
                return count
        while count - failed > 1:
            middle = (failed + count) // 2
            if self.add(ranked[:middle]).is_near:
                count = middle
            else:
                failed = middle
        return count

    def tell(self, context: PassContext) -> None:
        """Note and record what was tried."""
        tried = sorted(self.found, key=lambda trial: len(trial.kept))
        context.record("kept_in_float_trials", [trial.fact() for trial in tried])
        rows = counted(len(self._reference), "calibration row")
        context.note(f"keep_sensitive: auto, on {rows}: {'; '.join(map(str, tried))}.")


def note_kept(kept: Sequence[str], settings: SensitiveSettings, context: PassContext) -> None:
    """Note which weights stay in float because they are sensitive."""
    if kept:
        which = "the most sensitive for each byte"
        if settings.keep_sensitive == "auto":
            which = "as in int8 they would change the outputs most"
        context.note(f"Left in float, {which}: {listing(kept)}.")


def most_sensitive(found: Iterable[Sensitivity], count: int) -> tuple[str, ...]:
    """Return the `count` weights with the largest error for each byte saved, the worst first."""
    ranked = sorted(found, key=lambda item: item.error_per_byte, reverse=True)
    return tuple(item.weight.name for item in ranked[:count])


def most_to_blame(found: Iterable[Sensitivity]) -> tuple[str, ...]:
    """Return all weights by what they alone do to the outputs, the worst first.

    Of a given number of weights that stay in float these leave the smallest error, whatever they
    would have saved.
    """
    ranked = sorted(found, key=lambda item: item.logit_rms, reverse=True)
    return tuple(item.weight.name for item in ranked)


def quantized_alone(
    model: onnx.ModelProto,
    weight: QuantizableWeight,
    *,
    activations: Activations | SignedScales,
    tables: NarrowTables = NO_NARROW_TABLES,
) -> onnx.ModelProto:
    """Return a copy of the float graph `model` in which `weight` alone is int8, or int4."""
    return with_stored(model, [weight], activations=activations, tables=tables)


def with_stored(
    model: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    *,
    activations: Activations | SignedScales,
    tables: NarrowTables = NO_NARROW_TABLES,
) -> onnx.ModelProto:
    """Return a copy of the float graph `model` in which `weights` are int8, or int4."""
    variant = onnx.ModelProto()
    variant.CopyFrom(model)
    store_weights(variant, weights, activations=activations, tables=tables)
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
    """Writes graphs to the pass's own folder and runs up to `num_rows` calibration rows there."""

    def __init__(self, model: OnnxModel, context: PassContext, num_rows: int = _ROWS) -> None:
        self._path: Path = context.work_dir / "sensitivity" / "model.onnx"
        self._model = model
        examples, _ = sampled_rows(context, num_rows)
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
