"""Tries int8 forms of one graph: what each does to the logits, and how long it takes here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from compressor.models.onnx_file import save_graph
from compressor.models.onnx_model import OUTPUT, OnnxModel
from compressor.passes._base import PassContext
from compressor.passes._calibration import calibration_rows
from compressor.quantization.rewrite import Activations, quantize_sites
from compressor.quantization.sensitivity import compare_logits
from compressor.quantization.sites import Site

if TYPE_CHECKING:
    from compressor.passes.quantize_auto import QuantizeAuto
    from compressor.tasks import Batch

_BATCH_SIZE = 32  # of the rows whose logits are compared
_TIMED = 8  # batches, spread over the lengths of the rows
_WARMUP_ROUNDS = 2
_NOISE = 1.02  # times nearer than this are the same


@dataclass(frozen=True)
class RaceResult:
    """One form: how far its logits are from the float graph's, and its time for all batches."""

    form: str
    logit_rms: float
    changed: float | None  # fraction of the answers; None where a model gives vectors
    median_ms: float

    def __str__(self) -> str:
        """Return the result in words."""
        answers = "" if self.changed is None else f"{100 * self.changed:.2f}% of answers changed, "
        return f"{self.form} {self.median_ms:.2f} ms, {answers}error {self.logit_rms:.3g}"

    def fact(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "form": self.form,
            "logit_rms": self.logit_rms,
            "changed": self.changed,
            "median_ms": self.median_ms,
        }


def race(
    graph: onnx.ModelProto,
    sites: Sequence[Site],
    forms: Mapping[str, Activations],
    *,
    settings: QuantizeAuto,
    model: OnnxModel,
    context: PassContext,
) -> list[RaceResult]:
    """Return what each of `forms` does to the float `graph` when its `sites` become int8.

    The forms take turns in shuffled order; a time is the median over the rounds of the sum over the
    timed batches.

    Raises `StepFailed` when a logit is not finite.
    """
    read = (context.load_exported or context.load_baseline)()
    examples = calibration_rows(context.calibration, settings.rows)

    def batches(size: int) -> list[Batch]:
        starts = range(0, len(examples), size)
        return [
            read.task.encode(read.preprocessor, examples[start : start + size]) for start in starts
        ]

    opened = {
        name: _write(graph, sites, activations, name, model, context)
        for name, activations in forms.items()
    }
    plain = _write(graph, (), "per_token", "float", model, context)
    rows = batches(_BATCH_SIZE)
    reference = np.concatenate([plain.predict(batch) for batch in rows])
    timed = batches(settings.batch_size)
    spread = np.unique(np.linspace(0, len(timed) - 1, min(_TIMED, len(timed))).round())
    medians = _time(opened, [timed[int(place)] for place in spread], settings.rounds, context)
    results = []
    for name, form in opened.items():
        logits = np.concatenate([form.predict(batch) for batch in rows])
        rms, flips = compare_logits(reference, logits, are_vectors=plain.output_name != OUTPUT)
        changed = None if flips is None else flips / len(logits)
        results.append(RaceResult(name, rms, changed, medians[name]))
    return results


def choose(results: Sequence[RaceResult], max_changed: float) -> RaceResult:
    """Return the fastest of `results` that changes at most `max_changed` of the answers.

    Times within 2% of the fastest are the same; of those forms the one with the smallest error of
    the logits is returned, as it is when all change more answers or there are none to change.
    """
    allowed = [item for item in results if item.changed is not None and item.changed <= max_changed]
    if not allowed:
        return min(results, key=lambda item: item.logit_rms)
    fastest = min(item.median_ms for item in allowed)
    near = [item for item in allowed if item.median_ms <= _NOISE * fastest]
    return min(near, key=lambda item: item.logit_rms)


def _write(
    graph: onnx.ModelProto,
    sites: Sequence[Site],
    activations: Activations,
    name: str,
    model: OnnxModel,
    context: PassContext,
) -> OnnxModel:
    variant = onnx.ModelProto()
    variant.CopyFrom(graph)
    quantize_sites(variant, sites, activations=activations)
    path = context.work_dir / "race" / f"{name}.onnx"
    save_graph(variant, path)
    return OnnxModel(path, provider=model.provider, threads=model.threads)


def _time(
    forms: Mapping[str, OnnxModel], batches: Sequence[Batch], rounds: int, context: PassContext
) -> dict[str, float]:
    """Return the median milliseconds of each form for all batches."""
    random = np.random.default_rng(context.seed)
    names = list(forms)
    elapsed_ms = np.zeros((rounds + _WARMUP_ROUNDS, len(names)))
    with context.progress.bar("racing int8 forms", len(elapsed_ms)) as advance:
        for times in elapsed_ms:
            for batch in batches:
                for index in random.permutation(len(names)):
                    start = time.perf_counter_ns()
                    forms[names[index]].predict(batch)
                    times[index] += (time.perf_counter_ns() - start) / 1e6
            advance()
    medians = np.median(elapsed_ms[_WARMUP_ROUNDS:], axis=0)
    return dict(zip(names, map(float, medians), strict=True))
