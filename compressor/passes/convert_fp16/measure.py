"""Measures for `convert_fp16` on unlabelled calibration rows: ranges, sensitivity and parity."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from compressor.models.components import layer_of
from compressor.models.onnx_model import OnnxModel, open_session
from compressor.models.provider_options import AS_WRITTEN
from compressor.onnx_graph.element_types import opset_version
from compressor.onnx_graph.onnx_file import save_graph
from compressor.passes.base import PassContext
from compressor.passes.convert_fp16.cuda_kernels import Float16Type, has_kernel
from compressor.passes.convert_fp16.float16 import convert_to_float16, float_nodes, node_name
from compressor.passes.convert_fp16.float16_ranges import KeptNode, find_float_nodes
from compressor.passes.quantize.sensitivity import GraphRunner, compare_outputs

# What is worth keeping in float: everything else only moves numbers or adds a few.
_COMPUTES = frozenset(
    (
        "Attention",
        "BiasGelu",
        "Conv",
        "Erf",
        "FastGelu",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "LayerNormalization",
        "MatMul",
        "MultiHeadAttention",
        "Pow",
        "ReduceMean",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "Softmax",
        "Tanh",
    )
)


def nodes_out_of_range(
    graph: onnx.ModelProto, model: OnnxModel, context: PassContext
) -> tuple[KeptNode, ...]:
    """Return the nodes that need float32, and record them with what they need it for.

    The rows run in float32 on the CPU, whichever provider `graph`, which is that of `model`, is
    for, with the threads of `model`; pairs of quantization are computed as they stand. Raises
    `StepFailed` when a value or a weight is not finite.
    """
    runner = GraphRunner(model, context)
    path = context.work_dir / "ranges" / "model.onnx"

    def run(probed: onnx.ModelProto, names: list[str]) -> Iterator[list[NDArray[np.generic]]]:
        save_graph(probed, path)
        session = open_session(
            path, "cpu", threads=model.threads, keeps_memory=False, settings=AS_WRITTEN
        )
        read = [item.name for item in session.get_inputs()]
        with context.progress.bar("ranges", len(runner.batches)) as advance:
            for batch in runner.batches:
                yield session.run(names, {name: batch[name] for name in read})
                advance()

    found = find_float_nodes(graph, run)
    context.record(
        "kept_in_float",
        [{"name": item.name, "operator": item.operator, "reason": item.reason} for item in found],
    )
    return found


def sensitive_nodes(
    graph: onnx.ModelProto,
    kept: Collection[str],
    count: int,
    *,
    dtype: Float16Type,
    model: OnnxModel,
    context: PassContext,
) -> list[str]:
    """Return the `count` nodes that move the logits most when each alone is converted.

    Nodes of `kept` stay in float32 already. What each one costs is recorded. Raises `StepFailed`
    when a logit is not finite.
    """
    nodes = list(float_nodes(graph))
    version = opset_version(graph)
    candidates = [
        node
        for node in nodes
        if node.op_type in _COMPUTES
        and node_name(node) not in kept
        and has_kernel(node.op_type, dtype, version)
    ]
    runner = GraphRunner(model, context)
    reference = runner.outputs(graph)
    everything = {node_name(node) for node in nodes}
    moved: dict[str, tuple[float, int | None]] = {}
    with context.progress.bar("sensitivity", len(candidates)) as advance:
        for node in candidates:
            alone = convert_to_float16(graph, in_float=everything - {node_name(node)}, dtype=dtype)
            moved[node_name(node)] = runner.change(reference, alone)
            advance(1, f"logits move by {moved[node_name(node)][0]:.2g}, {node_name(node)}")
    ranked = sorted(moved, key=lambda name: -moved[name][0])
    chosen = ranked[: min(count, len(ranked) - 1)]
    sizes = {
        tensor.name: numpy_helper.to_array(tensor).nbytes for tensor in graph.graph.initializer
    }
    context.record(
        "sensitivity",
        [
            _fact(node, sizes, *moved[node_name(node)], dtype=dtype, chosen=chosen)
            for node in candidates
        ],
    )
    return chosen


def _fact(
    node: onnx.NodeProto,
    sizes: Mapping[str, int],
    rms: float,
    flips: int | None,
    *,
    dtype: Float16Type,
    chosen: Sequence[str],
) -> dict[str, object]:
    """Describe a node by the largest weight that it reads: that name says where it belongs."""
    weights = [name for name in node.input if name in sizes]
    name = max(weights, key=lambda weight: sizes[weight], default=node_name(node))
    return {
        "name": name,
        "layer": layer_of(name),
        "logit_rms": rms,
        "flips": flips,
        "bytes_saved": sum(sizes[weight] for weight in weights) // 2,
        "kept_in_float": node_name(node) in chosen,
        "converted_to": dtype,
    }


@dataclass(frozen=True)
class Parity:
    """How far the outputs of a converted graph are from those of the float one.

    `flips` are predictions that change; None of vectors.
    """

    provider: str
    rows: int
    max_abs_diff: float
    rms_diff: float
    flips: int | None
    output_words: str  # what people call the outputs

    def fact(self) -> dict[str, object]:
        """Return the comparison as plain data."""
        return {name: value for name, value in asdict(self).items() if name != "output_words"}


def parity(
    graph: onnx.ModelProto, converted: onnx.ModelProto, *, model: OnnxModel, context: PassContext
) -> Parity:
    """Run both graphs on the provider of `model` and compare their outputs.

    Raises `StepFailed` when a logit is not finite.
    """
    runner = GraphRunner(model, context)
    before, after = runner.outputs(graph), runner.outputs(converted)
    rms, flips = compare_outputs(runner.task, before, after)
    largest = float(np.abs(before.numbers - after.numbers).max())
    return Parity(model.provider, len(before), largest, rms, flips, runner.task.output_words)
