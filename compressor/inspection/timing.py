"""ONNX Runtime's profile of a graph: time by operator and by part of the encoder.

One thread, one example, so that the shares are those of the work and not of how it was shared out.
The profile knows nodes; which part a node belongs to is told by the weights it reads, and for a
node without weights (scores, softmax) by what it computes from.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from compressor.models.components import COMPONENTS, Component, stored_weights
from compressor.models.onnx_model import output_of
from compressor.onnx_graph.onnx_file import load_graph
from compressor.progress import SILENT, Progress
from compressor.tasks import Batch

_WARMUP_RUNS = 5
_TIMED_RUNS = 30


@dataclass(frozen=True)
class TimeShares:
    """Fractions of the time in operators, each mapping adds up to 1; largest first."""

    num_runs: int
    sequence_length: int | None
    by_component: Mapping[str, float]
    by_operator: Mapping[str, float]


def profile(path: Path, batch: Batch, *, progress: Progress = SILENT) -> TimeShares:
    """Run `batch` on one thread of the CPU and return where the time of fast runs went."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        feed = {item.name: batch[item.name] for item in session.get_inputs()}
        outputs = [output_of(session)]
        with progress.bar("profile", _WARMUP_RUNS + _TIMED_RUNS) as advance:
            for _ in range(_WARMUP_RUNS + _TIMED_RUNS):
                session.run(outputs, feed)
                advance()
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        placed = place_nodes(load_graph(Path(folder) / "model.onnx", weights=False))
    lengths = [value.shape[1] for value in feed.values() if value.ndim == 2]
    return _shares(events, placed, lengths[0] if lengths else None)


def place_nodes(model: onnx.ModelProto) -> dict[str, Component]:
    """Return the part of the encoder that each node of a graph belongs to, by the node's name.

    A node without a telling weight belongs to the latest part that it computes from.
    """
    weights = {item.name: item.component for item in stored_weights(model)}
    order: dict[str, tuple[int, Component]] = {}  # by value: when and in which part it was made
    placed: dict[str, Component] = {}
    for position, node in enumerate(model.graph.node):
        own = [weights[name] for name in node.input if name in weights]
        before = sorted(order[name] for name in node.input if name in order)
        candidates = [*own, *(part for _, part in reversed(before))]
        part: Component = next((item for item in candidates if item != "other"), "other")
        # After the last layer come the pooler and the classifier, which have weights of their own.
        if own and all(item == "other" for item in own) and _is_product(node):
            part = "other"
        placed[node.name] = part
        order.update((name, (position, part)) for name in node.output)
    return placed


def _is_product(node: onnx.NodeProto) -> bool:
    return "MatMul" in node.op_type or "Gemm" in node.op_type


def _shares(
    events: list[dict[str, object]], placed: Mapping[str, Component], length: int | None
) -> TimeShares:
    components: Counter[str] = Counter(dict.fromkeys(COMPONENTS, 0))
    operators: Counter[str] = Counter()
    spent: dict[tuple[str, str], list[int]] = {}  # microseconds of each run, by node and operator
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if name.endswith("_kernel_time") and isinstance(arguments, dict):
            node = (name.removesuffix("_kernel_time"), str(arguments["op_name"]))
            spent.setdefault(node, []).append(int(str(event["dur"])))
    for (node_name, operator), every in spent.items():
        # The profile has the wall clock alone, so the runs that others interrupted are left out.
        fast = sum(sorted(every[_WARMUP_RUNS:])[: _TIMED_RUNS // 2])
        components[placed.get(node_name, "other")] += fast
        operators[operator] += fast
    return TimeShares(_TIMED_RUNS, length, _fractions(components), _fractions(operators))


def _fractions(spent: Counter[str]) -> dict[str, float]:
    total = max(spent.total(), 1)
    return {name: value / total for name, value in spent.most_common()}
