"""Looks into an .onnx file, ours or another tool's: size, operators, and whether int8 is exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.inspection.facts import (
    InputFacts,
    LogitChange,
    MatmulFacts,
    OnnxFacts,
    SaturationFacts,
)
from compressor.inspection.inputs import TextRows, random_batch, text_batches
from compressor.models.components import StoredWeight, component_bytes, stored_weights
from compressor.models.onnx_model import SESSION_FAILURES, optimized_graph
from compressor.onnx_graph.element_types import FLOATS
from compressor.onnx_graph.integer_matmuls import IntegerMatmul, find_integer_matmuls
from compressor.onnx_graph.onnx_file import bytes_on_disk, load_graph, parameter_counts
from compressor.onnx_graph.saturation import exact_matmul, saturating_matmul
from compressor.onnx_graph.split_run import SplitRun
from compressor.progress import SILENT, Progress
from compressor.tasks import Batch, output_names
from compressor.words import counted

_LARGEST_ACTIVATION = 255


def inspect_onnx(
    path: Path, *, rows: TextRows | None = None, progress: Progress = SILENT
) -> OnnxFacts:
    """Return what `path` holds and runs; `rows` are what saturation is tried on, else random ones.

    Raises `EnvironmentMismatch` when the file or its data file is missing or damaged, when it holds
    no weights, and when ONNX Runtime cannot open it.
    """
    model = load_graph(path)
    weights = stored_weights(model)
    if not any(weight.elements for weight in weights):
        inside = " outside of its If and Loop branches" if _has_branches(model) else ""
        raise EnvironmentMismatch(
            f"{path}: holds no weights{inside}, so there is nothing to inspect; export the model "
            f"with its weights inside or in a data file beside it"
        )
    if not model.graph.output:
        raise EnvironmentMismatch(f"{path}: has no output, so it computes nothing; make it again")
    progress.stage(f"open {path.name} as ONNX Runtime runs it")
    running = optimized_graph(path)
    parameters, nonzero = parameter_counts(path)
    return OnnxFacts(
        path=str(path),
        bytes_on_disk=bytes_on_disk(path),
        parameters=parameters,
        nonzero_parameters=nonzero,
        not_finite=_not_finite(model),
        components=component_bytes(path),
        opsets={item.domain or "ai.onnx": item.version for item in model.opset_import},
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=_described(model.graph.input, {item.name for item in weights}),
        outputs=_described(model.graph.output, set()),
        operators=_operators(model),
        runtime_operators=_operators(running),
        saturation=_saturation(path, running, rows, progress),
    )


def _has_branches(model: onnx.ModelProto) -> bool:
    return any(item.HasField("g") for node in model.graph.node for item in node.attribute)


def _not_finite(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many numbers of a constant are NaN or infinite, of those that have any.

    Minus infinity alone is what masks are made of.
    """
    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in FLOATS:
            # Types such as bfloat16 are foreign to NumPy, but all of them fit into float64.
            values = numpy_helper.to_array(tensor).astype(np.float64)
            if np.isnan(values).any() or np.isposinf(values).any():
                found[tensor.name] = int(np.sum(~np.isfinite(values)))
    return found


def _saturation(
    path: Path, model: onnx.ModelProto, rows: TextRows | None, progress: Progress
) -> SaturationFacts:
    products = find_integer_matmuls(model)
    if not products:
        return SaturationFacts("no_integer_products", (), None)
    placed = {item.name: item for item in stored_weights(model)}
    risky = {item.output for item in products if item.can_saturate and item.can_simulate}
    facts = tuple(_matmul(item, placed, simulated=item.output in risky) for item in products)
    change = _logit_change(path, model, risky, rows, progress) if risky else None
    if any(matmul.can_saturate for matmul in products):
        return SaturationFacts("can_saturate", facts, change)
    return SaturationFacts("exact_everywhere", facts, None)


def _logit_change(
    path: Path,
    model: onnx.ModelProto,
    risky: set[str],
    rows: TextRows | None,
    progress: Progress,
) -> LogitChange:
    """Run the graph with exact and with saturating matmuls in the `risky` nodes."""
    progress.stage(f"simulate {counted(len(risky), 'matmul')} without VNNI")
    name, batches = random_batch(model) if rows is None else text_batches(model, rows)
    outputs = [item.name for item in model.graph.output]
    output = next((name for name in output_names() if name in outputs), outputs[0])
    graph = SplitRun(model, risky)
    exact, saturated = [], []
    with progress.bar("simulate", len(batches)) as advance:
        for batch in batches:
            try:
                exact.append(np.asarray(graph.run(batch, output, exact_matmul), np.float64))
                found = graph.run(batch, output, saturating_matmul)
            except (ValueError, *SESSION_FAILURES) as error:  # shapes that only a run tells
                raise EnvironmentMismatch(
                    f"{path}: cannot be run on {name} ({error}); give rows that fit it with --data "
                    f"and --text, or export it with the shapes of its inputs"
                ) from error
            saturated.append(np.asarray(found, np.float64))
            advance()
    return _compare(name, batches, exact, saturated)


def _compare(
    name: str,
    batches: Sequence[Batch],
    exact: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float64]]],
    saturated: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.float64]]],
) -> LogitChange:
    moved = np.concatenate([(a - b).ravel() for a, b in zip(exact, saturated, strict=True)])
    before = np.concatenate([item.ravel() for item in exact])
    flips = None
    if all(item.ndim == 2 and item.shape[1] > 1 for item in exact):
        pairs = zip(exact, saturated, strict=True)
        flips = sum(int(np.sum(a.argmax(axis=1) != b.argmax(axis=1))) for a, b in pairs)
    return LogitChange(
        inputs=name,
        rows=sum(len(next(iter(batch.values()))) for batch in batches),
        max_abs=float(np.max(np.abs(moved), initial=0.0)),
        rms=float(np.sqrt(np.mean(np.square(moved)))),
        rms_of_logits=float(np.sqrt(np.mean(np.square(before)))),
        flips=flips,
    )


def _matmul(
    matmul: IntegerMatmul, placed: Mapping[str, StoredWeight], *, simulated: bool
) -> MatmulFacts:
    weight, risk = placed.get(matmul.weight or ""), matmul.risk
    return MatmulFacts(
        node=matmul.node,
        operator=matmul.operator,
        weight=matmul.weight,
        component="other" if weight is None else weight.component,
        layer=None if weight is None else weight.layer,
        inner=matmul.inner,
        columns=matmul.columns,
        activations=matmul.activations,
        weights=matmul.weights,
        can_saturate=matmul.can_saturate,
        pairs=None if risk is None else risk.num_pairs,
        risky_pairs=None if risk is None else risk.risky_pairs,
        risky_columns=None if risk is None else risk.risky_columns,
        worst_16_bit_sum=None if risk is None else _LARGEST_ACTIVATION * risk.worst_sum,
        simulated=simulated,
    )


def _operators(model: onnx.ModelProto) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def _described(
    values: Sequence[onnx.ValueInfoProto], constants: set[str]
) -> tuple[InputFacts, ...]:
    return tuple(
        InputFacts(
            name=value.name,
            type=TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(),
            shape=tuple(
                axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None
                for axis in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
        if value.name not in constants
    )
