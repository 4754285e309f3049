"""Embedding tables in int4 or codes: which become it, which rows get more bits, what they lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.onnx_graph.embedding_tables import NO_NARROW_TABLES, NarrowTables, reasons_against
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, find_uses
from compressor.passes.quantize.calibration import calibrate
from compressor.passes.quantize.quantization import Quantization
from compressor.passes.quantize.settings import ROWS_WITHOUT_COMPUTING, IntegerSettings


def narrow_tables(quantization: Quantization[IntegerSettings]) -> NarrowTables:
    """Return which tables take fewer bits than int8, none unless the settings say so."""
    settings = quantization.settings
    if settings.embeddings not in ("int4", "codes"):
        return NO_NARROW_TABLES
    width = _code_width(settings)
    reasons = reasons_against(quantization.weights, width)
    tables = [table.name for table in quantization.tables if table.name not in reasons]
    refined = frequent_rows(quantization, tables) if settings.refined_rows else {}
    return NarrowTables(frozenset(tables), settings.embedding_block, width, refined)


def note_tables(
    quantization: Quantization[IntegerSettings],
    chosen: Iterable[QuantizableWeight],
    narrow: NarrowTables,
    errors: Mapping[str, float],
) -> None:
    """Note what the narrow tables lose, by `errors`, and which tables of `chosen` are none."""
    settings, note = quantization.settings, quantization.context.note
    if settings.embeddings not in ("int4", "codes"):
        return
    form, to_each = f"{settings.embeddings} weights", f"{settings.embedding_block} to a scale"
    if settings.embeddings == "codes":
        form, to_each = "codes", f"{settings.code_width} weights to a byte"
    for name, error in errors.items():
        refined = len(narrow.refined.get(name, ()))
        finer = f", its {refined:,} most frequent rows in two steps" if refined else ""
        note(
            f"{name} holds {form}, {to_each}{finer}; rounding moves them by {100 * error:.1f}% "
            f"(root mean square)."
        )
    for name, reason in reasons_against(chosen, _code_width(settings)).items():
        note(f"{name} is int8 and not {settings.embeddings}: {reason}.")


def _code_width(settings: IntegerSettings) -> int | None:
    return settings.code_width if settings.embeddings == "codes" else None


class _LookedUp:
    """How often each row of a table was looked up."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def update(self, values: NDArray[np.generic]) -> None:
        self.counts.update(values.reshape(-1).tolist())


def frequent_rows(
    quantization: Quantization[IntegerSettings], tables: Sequence[str]
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each of `tables` that are looked up most often, at most `refined_rows`.

    Read are `rows` calibration rows, or 10,000 where indices are inputs and nothing has to be
    computed. Rows that are not looked up at all are not among the result.
    """
    settings, graph = quantization.settings, quantization.graph.graph
    if not tables:
        return {}
    uses = find_uses(graph)
    indices = {table: [use.node.input[1] for use in uses[table]] for table in tables}
    names = dict.fromkeys(name for found in indices.values() for name in found)
    num_rows = settings.rows
    if names.keys() <= {item.name for item in graph.input}:
        num_rows = max(num_rows, ROWS_WITHOUT_COMPUTING)
    seen = calibrate(quantization, tuple(names), _LookedUp, num_rows=num_rows).statistics
    sizes = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.name in indices}
    chosen = {}
    for table, read in indices.items():
        counts: Counter[int] = Counter()
        for name in read:
            for row, number in seen[name].counts.items():
                counts[row % sizes[table]] += number  # negative ones count from the end
        ranked = counts.most_common(settings.refined_rows)
        chosen[table] = np.array([row for row, _ in ranked], np.int64)
    return chosen
