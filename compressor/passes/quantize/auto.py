"""Int8 in the form that is fastest on this machine, among those that keep the predictions.

Activations with one scale for each token cost more time, those with a scale fixed beforehand more
accuracy. How much of either depends on the model and on the machine, so both are measured: the
logits of every form on calibration rows, and its time, the forms taking turns.
"""

from __future__ import annotations

from collections.abc import Mapping

from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.activation_ranges import finely_rounded
from compressor.onnx_graph.int8_weights import Activations, FixedScale
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import fixed_scales, observe
from compressor.passes.quantize.int8 import reorder, save_int8, smooth, store_int8
from compressor.passes.quantize.quantization import (
    Quantization,
    find_weights,
    finite_numbers_expected,
)
from compressor.passes.quantize.race import choose, race
from compressor.passes.quantize.settings import QuantizeAuto


def apply(settings: QuantizeAuto, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the int8 graph in the chosen form and return it.

    Raises `StepFailed` for what `find_weights` cannot take, and when a weight, an observed
    activation or a logit is not finite; `EnvironmentMismatch` when times vary too much.
    """
    quantization = find_weights(settings, model, context)
    with finite_numbers_expected():
        smoothed = smooth(quantization)
        reordered = reorder(quantization)
        stored = store_int8(quantization, _fastest(quantization))
    return save_int8(quantization, stored, smoothed=smoothed, reordered=reordered)


def _fastest(quantization: Quantization[QuantizeAuto]) -> Activations:
    """Return the activations of the form that wins the race, which is recorded."""
    settings, context = quantization.settings, quantization.context
    scales, fine = _fixed_scales(quantization)
    every: dict[str, Activations] = {
        "per_token": "per_token",
        "per_tensor": "per_tensor",
        "static": scales,
        "mixed": fine,
    }
    forms = {str(form): every[form] for form in settings.forms}
    results = race(quantization, forms)
    chosen = choose(results, settings.max_changed)
    context.record("race", [{**item.fact(), "chosen": item is chosen} for item in results])
    context.note(f"Raced on this machine: {'; '.join(map(str, results))}.")
    fixed = f" ({len(fine)} of {len(scales)} scales fixed)" if chosen.form == "mixed" else ""
    context.note(f"Chosen: {chosen.form}{fixed}.")
    return forms[chosen.form]


def _fixed_scales(
    quantization: Quantization[QuantizeAuto],
) -> tuple[Mapping[str, FixedScale], Mapping[str, FixedScale]]:
    """Return fixed scales of all activations, and of those that lose little by it.

    Both are empty where no form needs any, so that nothing is observed.
    """
    if {"static", "mixed"}.isdisjoint(quantization.settings.forms):
        return {}, {}
    found = observe(quantization)
    scales = fixed_scales(quantization, found)
    return scales, finely_rounded(quantization.graph, found.statistics, scales)
