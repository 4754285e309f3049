"""Weights of 4 or 8 bits, arithmetic in float: for where memory is the limit.

Each block of an output column has a scale of its own (as in Dettmers et al. 2023, arXiv:2305.14314,
and Frantar et al. 2022, arXiv:2210.17323), which loses less than one scale for the whole column;
the matmuls are ONNX Runtime's `MatMulNBits` (`onnx_graph/weight_only.py`). Calibration rows are
read only for `rounding: gptq` and `bias_correction`, and need no labels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from compressor.models.onnx_model import OnnxModel
from compressor.onnx_graph.embedding_tables import NarrowTables, store_weights
from compressor.onnx_graph.weight_only import PackedForm, pack_matrices
from compressor.passes.base import PassContext
from compressor.passes.quantize.quantization import (
    Quantization,
    find_weights,
    finite_numbers_expected,
)
from compressor.passes.quantize.rounding import round_to_blocks
from compressor.passes.quantize.settings import QuantizeWeights
from compressor.passes.quantize.tables import narrow_tables, note_tables
from compressor.words import counted, listing, verb_for

logger = logging.getLogger(__name__)


def apply(settings: QuantizeWeights, model: OnnxModel, context: PassContext) -> OnnxModel:
    """Write the graph with packed weights and return it.

    Raises `StepFailed` for what `find_weights` cannot take, and when a weight or an observed
    activation is not finite.
    """
    quantization = find_weights(settings, model, context)
    graph, bits, block_size = quantization.graph, settings.bits, settings.block_size
    with finite_numbers_expected():
        int4 = narrow_tables(quantization)
        rounded = round_to_blocks(quantization, settings.rounding, bits=bits, block_size=block_size)
        form = PackedForm(bits, block_size, settings.activations)
        errors = pack_matrices(graph, quantization.matrices, form, chosen=rounded)
        lost = store_weights(graph, quantization.tables, activations="per_token", tables=int4)
    changed = quantization.save()
    _note(quantization, errors, int4, lost)
    return changed


def _note(
    quantization: Quantization[QuantizeWeights],
    errors: Mapping[str, float],
    int4: NarrowTables,
    int4_errors: Mapping[str, float],
) -> None:
    """Note what the matrices in `errors` and the tables in `int4_errors` lose, and the rest."""
    settings, note = quantization.settings, quantization.context.note
    packed = sum(weight.num_elements for weight in quantization.matrices)
    matrices = counted(len(errors), "matrix", "matrices")
    done = f"{matrices} {verb_for(len(errors), 'holds', 'hold')} weights of {settings.bits} bits"
    logger.info("quantize_weights: %s", done)
    note(f"{done}, {settings.block_size} to a scale, {packed:,} in all.")
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        note(
            f"Rounding moves them by {100 * errors[worst]:.1f}% at most (root mean square, in "
            f"{worst})."
        )
    if int8 := [table.name for table in quantization.tables if table.name not in int4_errors]:
        note(f"Embedding tables in int8: {listing(int8)}.")
    note_tables(quantization, quantization.weights, int4, int4_errors)
    quantization.note_leftovers()
