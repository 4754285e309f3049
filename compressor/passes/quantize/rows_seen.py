"""What calibration rows show of a graph's weights: which rows of tables, and how many tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compressor.onnx_graph.observers import ActivationStatistics
from compressor.onnx_graph.quantizable_weights import QuantizableWeight, activation_names, find_uses
from compressor.passes.quantize.calibration import calibrate
from compressor.passes.quantize.weight_choice import ROWS_WITHOUT_COMPUTING

if TYPE_CHECKING:
    from compressor.models.onnx_model import OnnxModel
    from compressor.passes.base import PassContext


class _Indices:
    """How often each row of a table was looked up."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def update(self, values: NDArray[Any]) -> None:
        self.counts.update(values.reshape(-1).tolist())


def frequent_rows(
    graph: onnx.ModelProto,
    tables: Sequence[QuantizableWeight],
    count: int,
    *,
    num_rows: int,
    model: OnnxModel,
    context: PassContext,
) -> dict[str, NDArray[np.int64]]:
    """Return the rows of each table that are looked up most often, at most `count`.

    Read are `num_rows` calibration rows, or 10,000 where indices are inputs and nothing has to be
    computed. Rows that are not looked up at all are not among the result.
    """
    if not tables:
        return {}
    uses = find_uses(graph.graph)
    indices = {weight.name: [use.node.input[1] for use in uses[weight.name]] for weight in tables}
    names = dict.fromkeys(name for found in indices.values() for name in found)
    if names.keys() <= {item.name for item in graph.graph.input}:
        num_rows = max(num_rows, ROWS_WITHOUT_COMPUTING)
    seen = calibrate(
        graph, tuple(names), num_rows=num_rows, model=model, context=context, watch=_Indices
    ).statistics
    chosen = {}
    for weight in tables:
        counts: Counter[int] = Counter()
        for name in indices[weight.name]:
            for row, number in seen[name].counts.items():
                counts[row % weight.shape[0]] += number  # negative ones count from the end
        chosen[weight.name] = np.array([row for row, _ in counts.most_common(count)], np.int64)
    return chosen


def once_per_text_weights(
    graph: onnx.ModelProto,
    weights: Sequence[QuantizableWeight],
    *,
    num_rows: int,
    model: OnnxModel,
    context: PassContext,
) -> tuple[QuantizableWeight, ...]:
    """Return the matrices that multiply one token of a text alone, or one vector of an image."""
    values = activation_names(graph, weights)
    found = calibrate(
        graph, values, num_rows=num_rows, model=model, context=context, watch=ActivationStatistics
    )
    uses = find_uses(graph.graph)
    return tuple(
        weight
        for weight in weights
        if weight.kind == "matrix"
        and all(
            found.statistics[use.node.input[0]].num_tokens == found.num_rows
            for use in uses[weight.name]
        )
    )
