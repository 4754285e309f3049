"""One graph in several runtimes: each runs every round, and is said with its version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino_there import needs_openvino

from compressor.models.onnx_model import open_session
from compressor.onnx_graph.onnx_file import save_graph
from compressor.recipe.recipe import BenchmarkSettings
from compressor.verify import runtimes
from compressor.verify.runtimes import time_runtimes
from compressor.verify.timing import TimingPlan


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Return the file of a graph that multiplies `x` by ones."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones((2, 3), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    path = tmp_path / "model.onnx"
    save_graph(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


BATCHES = [(size, None, {"x": np.ones((size, 2), np.float32)}) for size in (1, 4)]


def test_each_runtime_runs_each_batch_in_turns(product: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []

    def session(path: Path, provider: str, **_: object) -> object:
        inner = open_session(path, "cpu", threads=1)

        class Counted:
            get_inputs, get_outputs = inner.get_inputs, inner.get_outputs

            def run(self, names, feed):
                order.append(provider)
                return inner.run(names, feed)

        return Counted()

    monkeypatch.setattr("compressor.models.onnx_model.open_session", session)
    monkeypatch.setattr(runtimes, "openvino_version", lambda: "2026.4.1")
    found = time_runtimes(
        product,
        runtimes=("onnxruntime", "openvino"),
        batches=BATCHES,
        plan=TimingPlan(warmup_runs=1, num_runs=8, threads=1),
    )
    assert [(item.runtime, item.version, item.batch_size) for item in found] == [
        ("onnxruntime", onnxruntime.__version__, 1),
        ("openvino", "2026.4.1", 1),
        ("onnxruntime", onnxruntime.__version__, 4),
        ("openvino", "2026.4.1", 4),
    ]
    rounds = [tuple(order[place : place + 2]) for place in range(2, 18, 2)]  # after the warm-up
    assert set(rounds) == {("cpu", "openvino"), ("openvino", "cpu")}
    assert all(item.cpu_p50_ms is not None and item.num_runs == 8 for item in found)


def test_several_threads_have_no_cpu_time(product: Path):
    found = time_runtimes(
        product,
        runtimes=("onnxruntime",),
        batches=BATCHES[:1],
        plan=TimingPlan(warmup_runs=1, num_runs=2, threads=2),
    )
    assert [item.cpu_p50_ms for item in found] == [None]


@needs_openvino
def test_openvino_is_timed_where_it_is_installed(product: Path):
    found = time_runtimes(
        product,
        runtimes=("onnxruntime", "openvino"),
        batches=BATCHES[:1],
        plan=TimingPlan(warmup_runs=1, num_runs=3, threads=1),
    )
    assert [item.runtime for item in found] == ["onnxruntime", "openvino"]
    assert all(item.deciding_ms > 0 for item in found)


@pytest.mark.parametrize("named", [["openvino"], ["openvino", "openvino"], ["tflite", "openvino"]])
def test_two_known_runtimes_are_named_or_none(named: list[str]):
    with pytest.raises(ValueError, match=r"alone; name two|names openvino twice|Input should be"):
        BenchmarkSettings.model_validate({"runtimes": named})


def test_settings_without_runtimes_are_written_as_before():
    assert "runtimes" not in BenchmarkSettings().model_dump(mode="json")
    assert BenchmarkSettings(providers=()).measures is False
    assert BenchmarkSettings(providers=(), runtimes=("onnxruntime", "openvino")).measures is True
