"""Compares int8 forms of one graph: the change of the logits, and the latency on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compressor.data.sampling import evenly_spread
from compressor.errors import EnvironmentMismatch
from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.int8_weights import Activations, store_int8_weights
from compressor.onnx_graph.onnx_file import save_graph
from compressor.onnx_graph.quantizable_weights import QuantizableWeight
from compressor.passes.quantize.calibration import encoder, in_batches, sampled_rows
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.sensitivity import compare_outputs
from compressor.passes.quantize.settings import QuantizeAuto
from compressor.tasks import Batch
from compressor.verify.timing import (
    Clock,
    Run,
    Steady,
    clock_for,
    measure_until_steady,
    standard_error,
)

_BATCH_SIZE = 32  # of the rows whose logits are compared
_TIMED = 8  # batches, spread over the lengths of the rows
_ROUNDS_IN_BLOCK, _FEWEST_BLOCKS = 5, 4
_LONGER = 10  # times as many there may be
_ERROR, _ERRORS_TO_BE_CLEAR = 0.01, 4  # to which a ratio has to be known; how many to a tie
_LARGEST_ERROR = 4  # of that, before nothing is chosen
_NOISE = 1.02  # times nearer than this are the same


@dataclass(frozen=True)
class RaceResult:
    """One form: how far its logits are from the float graph's, and its time for all batches."""

    form: str
    logit_rms: float
    changed: float | None  # fraction of the predictions; None where a model gives vectors
    fast_ms: float  # in fast runs, on `clock`
    clock: Clock = "wall"

    def __str__(self) -> str:
        """Return the result in words."""
        share = "" if self.changed is None else f"{self.changed:.2%} of predictions changed, "
        return f"{self.form} {self.fast_ms:.2f} ms, {share}error {self.logit_rms:.3g}"

    def fact(self) -> dict[str, object]:
        """Return the result as plain data."""
        return {
            "form": self.form,
            "logit_rms": self.logit_rms,
            "changed": self.changed,
            "fast_ms": self.fast_ms,
            "clock": self.clock,
        }


def race(
    quantization: Quantization[QuantizeAuto], forms: Mapping[str, Activations]
) -> list[RaceResult]:
    """Return what each of `forms` does to the float graph when its weights become int8.

    The forms take turns in shuffled order (`verify/timing.py`) until their ratios are known to
    within 1%; a time is that of all timed batches together.

    Raises `StepFailed` when a logit is not finite, and `EnvironmentMismatch` when the times vary
    too much to choose by them.
    """
    settings, context = quantization.settings, quantization.context
    opened = {
        name: _write(quantization, quantization.weights, activations, name)
        for name, activations in forms.items()
    }
    plain = _write(quantization, (), "per_token", "float")
    examples, _ = sampled_rows(context, settings.rows)
    encode = encoder(context)
    rows = in_batches(examples, _BATCH_SIZE, encode)
    reference = encode.task.predicted(plain.predict, rows)
    timed = in_batches(examples, settings.batch_size, encode)
    spread = evenly_spread(len(timed), _TIMED)
    steady = _time(quantization, opened, [timed[place] for place in spread])
    _require_steady(steady)
    results = []
    for name, form in opened.items():
        outputs = encode.task.predicted(form.predict, rows)
        rms, flips = compare_outputs(encode.task, reference, outputs)
        changed = None if flips is None else flips / len(outputs)
        results.append(RaceResult(name, rms, changed, steady.fast_ms[name], steady.clock))
    return results


def choose(results: Sequence[RaceResult], max_changed: float) -> RaceResult:
    """Return the fastest of `results` that changes at most `max_changed` of the predictions.

    Times within 2% of the fastest are the same; of those forms the one with the smallest error of
    the logits is returned, as it is when all change more predictions or there are none to change.
    """
    allowed = [item for item in results if item.changed is not None and item.changed <= max_changed]
    if not allowed:
        return min(results, key=lambda item: item.logit_rms)
    fastest = min(item.fast_ms for item in allowed)
    near = [item for item in allowed if item.fast_ms <= _NOISE * fastest]
    return min(near, key=lambda item: item.logit_rms)


def _write(
    quantization: Quantization[QuantizeAuto],
    weights: Sequence[QuantizableWeight],
    activations: Activations,
    name: str,
) -> OnnxModel:
    variant = onnx.ModelProto()
    variant.CopyFrom(quantization.graph)
    store_int8_weights(variant, weights, activations=activations)
    path = quantization.context.work_dir / "race" / f"{name}.onnx"
    save_graph(variant, path)
    return replace(quantization.model, path=path)


def _time(
    quantization: Quantization[QuantizeAuto],
    forms: Mapping[str, OnnxModel],
    batches: Sequence[Batch],
) -> Steady:
    """Return what each form takes for all batches."""
    model, context = quantization.model, quantization.context

    def run_of(form: OnnxModel) -> Run:
        return lambda: [form.predict(batch) for batch in batches]

    fewest_blocks = max(_FEWEST_BLOCKS, -(-quantization.settings.rounds // _ROUNDS_IN_BLOCK))
    with context.progress.bar("racing int8 forms", _LONGER * fewest_blocks) as advance:
        return measure_until_steady(
            {name: run_of(form) for name, form in forms.items()},
            clock=clock_for(model.provider, model.threads),
            threads=model.threads or 0,
            error_of=_error_of_ratios,
            rounds_in_block=_ROUNDS_IN_BLOCK,
            fewest_blocks=fewest_blocks,
            most_blocks=_LONGER * fewest_blocks,
            random=np.random.default_rng(context.seed),
            advance=advance,
        )


def _error_of_ratios(blocks: Sequence[Mapping[str, float]]) -> float:
    """Return the largest standard error of one form's time over another's, as a share of `_ERROR`.

    Every form is compared with the fastest, block by block, so that what slows both cancels. One
    that is clearly slower need not be known as well.
    """
    medians = {name: float(np.median([block[name] for block in blocks])) for name in blocks[0]}
    fastest = min(medians, key=medians.__getitem__)
    errors = []
    for name in medians:
        ratios = [block[name] / block[fastest] for block in blocks]
        clearly = abs(float(np.median(ratios)) - _NOISE) / _ERRORS_TO_BE_CLEAR
        errors.append(standard_error(ratios) / max(_ERROR, clearly))
    return max(errors)


def _require_steady(steady: Steady) -> None:
    if steady.error > _LARGEST_ERROR:
        raise EnvironmentMismatch(
            f"the int8 forms could not be raced: after {steady.num_rounds} rounds on the "
            f"{steady.clock} clock their times vary {steady.error:.1f} times as much as is good "
            f"enough (allowed: {_LARGEST_ERROR}); run again when the machine is quieter, give "
            f"benchmark.threads: 1, whose CPU clock other work hardly changes, or name one of the "
            f"forms"
        )
