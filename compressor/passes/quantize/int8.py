"""Steps that passes share which store int8 weights, whatever their activations are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.embedding_tables import NarrowTables, store_weights
from compressor.onnx_graph.int8_weights import Activations
from compressor.onnx_graph.observers import ActivationStatistics
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, find_uses
from compressor.onnx_graph.reorder_channels import reorder_inner_channels
from compressor.onnx_graph.smoothquant import smooth_normalized_inputs, smooth_observed_inputs
from compressor.onnx_graph.weight_only import PackedForm, pack_matrices
from compressor.passes.base import PassContext
from compressor.passes.quantize.calibration import calibrate, observe
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.rounding import round_to_blocks, round_to_int8, round_to_narrow
from compressor.passes.quantize.sensitivity import note_kept, weights_to_keep
from compressor.passes.quantize.settings import CalibratedSettings, Int8Settings, ObservingSettings
from compressor.passes.quantize.tables import narrow_tables, note_tables
from compressor.words import counted, listing

# Of what multiplies one token of a text: weights of a column that share a scale are 128.
_ONCE_PER_TEXT = PackedForm(bits=4, block_size=128, activations="int8")
_ROWS_TO_COUNT = 8  # calibration rows that show which matrices multiply one token alone

logger = logging.getLogger(__name__)

Names = tuple[str, ...]  # of weights


def smooth_after_norms(quantization: Quantization[Int8Settings]) -> Names | None:
    """Smooth channels that normalisations make large, in place; None unless asked to.

    Returns the matrices before which that was done.
    """
    if not quantization.settings.smooth:
        return None
    return smooth_normalized_inputs(quantization.graph, quantization.weights)


def smooth_by_rows(
    quantization: Quantization[ObservingSettings], *, together: bool = False
) -> Names | None:
    """Smooth channels that are large on the calibration rows, in place; None unless asked to.

    Returns the matrices before which that was done. `together`, those of one input go on reading
    one value.
    """
    graph, alpha = quantization.graph, quantization.settings.smooth_alpha
    if alpha is None:
        return None
    found = observe(quantization).statistics
    largest = {name: item.channel_largest for name, item in found.items()}
    return smooth_observed_inputs(graph, quantization.weights, largest, alpha, together=together)


def smooth(quantization: Quantization[CalibratedSettings]) -> Names | None:
    """Smooth large channels in the way that the settings say; None where they say none."""
    if quantization.settings.smooth_alpha is None:
        return smooth_after_norms(quantization)
    return smooth_by_rows(quantization)


def note_smoothed(smoothed: Names | None, context: PassContext) -> None:
    """Note before which weights channels were smoothed, where that was asked for."""
    if smoothed is not None:
        context.note(f"Large channels smoothed before {len(smoothed)} of the matrices.")


def reorder(quantization: Quantization[Int8Settings]) -> Names:
    """Reorder inner channels, in place, and return the matrices whose scales get finer by it.

    None where matrices take four bits: those of a block belong together, as training left them.
    """
    if quantization.settings.matrices == "int4":
        return ()
    with quantization.context.progress.bar("ordering channels", None):
        return reorder_inner_channels(quantization.graph, quantization.weights)


@dataclass(frozen=True)
class StoredInt8:
    """What became of the weights of a graph.

    `weights` are in int8, or in int4 where `tables` says so: `errors` has what those lose. `packed`
    are matrices in int4, and `kept` what stays in float because it is sensitive.
    """

    weights: tuple[QuantizableWeight, ...]
    tables: NarrowTables
    errors: Mapping[str, float]
    packed: Names
    kept: Names


def store_int8(quantization: Quantization[Int8Settings], activations: Activations) -> StoredInt8:
    """Store the weights as integers, in place, all but the most sensitive.

    Raises `StepFailed` when a weight, an observed activation or a logit is not finite.
    """
    tables = narrow_tables(quantization)
    kept = weights_to_keep(quantization, activations=activations, tables=tables)
    quantization = quantization.without(kept)
    packed = _pack_once_per_text(quantization)
    quantization = quantization.without(packed)
    narrow = round_to_narrow(quantization)
    if not narrow:
        round_to_int8(quantization)
    graph, weights = quantization.graph, quantization.weights
    errors = store_weights(graph, weights, activations=activations, tables=tables, narrow=narrow)
    return StoredInt8(weights, tables, errors, packed, kept)


def save_int8(
    quantization: Quantization[Int8Settings],
    stored: StoredInt8,
    *,
    smoothed: Names | None,
    reordered: Names,
) -> OnnxModel:
    """Write the graph, note what was done to it and return it as a model."""
    changed, note = quantization.save(), quantization.context.note
    if stored.packed:
        note(f"In int4, as they multiply one token of a text: {listing(stored.packed)}.")
    kinds = Counter(weight.kind for weight in stored.weights)
    filters = f"{counted(kinds['filter'], 'convolution')}, " if kinds["filter"] else ""
    done = (
        f"{filters}{counted(kinds['matrix'], 'matrix', 'matrices')} and "
        f"{counted(kinds['table'] - len(stored.errors), 'embedding table')} hold int8 weights"
    )
    logger.info("%s: %s", quantization.settings.kind, done)
    in_int8 = sum(
        weight.num_elements for weight in stored.weights if weight.name not in stored.errors
    )
    note(f"{done}, {counted(in_int8, 'weight')} in all.")
    if quantization.settings.matrices == "int4":
        note(
            f"Matrices take 4 bits a weight in the file, {quantization.settings.matrix_block} to a "
            f"factor; what opens it makes int8 of them once."
        )
    note_tables(quantization, stored.weights, stored.tables, stored.errors)
    if reordered:
        note(f"Inner channels reordered before {len(reordered)} of the matrices.")
    quantization.note_leftovers()
    note_smoothed(smoothed, quantization.context)
    note_kept(stored.kept, quantization.settings, quantization.context)
    return changed


def _pack_once_per_text(quantization: Quantization[Int8Settings]) -> Names:
    """Store what multiplies one token of a text as int4, in place, and return its names."""
    if quantization.settings.once_per_text != "int4":
        return ()
    names = _once_per_text(quantization)
    if not names:
        quantization.context.note(
            "Nothing multiplies one token of a text alone, so once_per_text changes nothing."
        )
        return ()
    others = {weight.name for weight in quantization.weights} - set(names)
    found, form = quantization.without(others), _ONCE_PER_TEXT
    rounded = round_to_blocks(found, "gptq", bits=form.bits, block_size=form.block_size)
    return tuple(pack_matrices(found.graph, found.weights, form, chosen=rounded))


def _once_per_text(quantization: Quantization[Int8Settings]) -> Names:
    """Return the matrices that multiply one token of a text alone, or one vector of an image."""
    found = calibrate(
        quantization, quantization.activations, ActivationStatistics, num_rows=_ROWS_TO_COUNT
    )
    uses = find_uses(quantization.graph.graph)
    return tuple(
        weight.name
        for weight in quantization.matrices
        if all(
            found.statistics[use.node.input[0]].num_tokens == found.num_rows
            for use in uses[weight.name]
        )
    )
