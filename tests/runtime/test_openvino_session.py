"""What is asked of OpenVINO, with a stand-in for it, and what it does where it is installed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from openvino_there import needs_bfloat16, needs_openvino

from compressor.runtime import openvino_session
from compressor.runtime.errors import EnvironmentMismatch
from compressor.runtime.openvino_session import (
    OpenvinoSession,
    Precision,
    load_openvino,
    openvino_properties,
    openvino_version,
)

WEIGHT = np.array([[1, 0, 2], [0, 3, 4]], np.float32)
X = np.array([[1, 1], [2, 0]], np.float32)


def product(*, operator: str = "MatMul", domain: str = "") -> onnx.ModelProto:
    """Return a graph that gives `x` times `WEIGHT`, and the same with one more."""
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["x", "w"], ["logits"], domain=domain),
            helper.make_node("Add", ["logits", "one"], ["more"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])
            for name in ("more", "logits")
        ],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.float32([1]), "one")],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def opened(tmp_path: Path) -> OpenvinoSession:
    onnx.save(product(), tmp_path / "model.onnx")
    return OpenvinoSession(tmp_path / "model.onnx", threads=1, place="model.onnx")


class Compiled:
    """A stand-in for a compiled model that computes in `hint`."""

    inputs = outputs = ()

    def __init__(self, hint: str) -> None:
        self.hint = hint

    def get_property(self, name: str) -> Any:
        assert name == "INFERENCE_PRECISION_HINT"
        return types.SimpleNamespace(to_string=lambda: self.hint)

    def create_infer_request(self) -> object:
        return object()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for OpenVINO on a CPU without bfloat16; return what models are compiled with."""
    found: dict[str, Any] = {}

    class Core:
        def read_model(self, source: object) -> object:
            return source

        def compile_model(self, model: object, device: str, properties: dict[str, Any]) -> Compiled:
            found.update(properties, device=device)
            return Compiled("f32")

    stand_in = types.SimpleNamespace(Core=Core, __version__="2026.4.1-1-abc")
    monkeypatch.setattr(openvino_session, "load_openvino", lambda: stand_in)
    return found


def test_float32_is_asked_for_and_nothing_is_pinned_or_kept(asked: dict[str, Any]):
    OpenvinoSession(b"", threads=2, streams=3, place="graph")
    assert asked == {
        "device": "CPU",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 3,
        "INFERENCE_NUM_THREADS": 6,
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": "",
    }


def test_without_a_number_of_threads_openvino_chooses_one():
    assert "INFERENCE_NUM_THREADS" not in openvino_properties(threads=None)


def test_bfloat16_on_a_cpu_without_it_is_refused(asked: dict[str, Any]):
    with pytest.raises(EnvironmentMismatch) as raised:
        OpenvinoSession(b"", threads=1, precision="bf16", place="model.onnx")
    assert asked["INFERENCE_PRECISION_HINT"] == "bf16"
    assert str(raised.value) == (
        "model.onnx: asks for bf16 in OpenVINO, which computes in f32 on this CPU; bf16 needs "
        "AVX-512 BF16 or AMX: take precision fp32"
    )


def test_version_is_three_numbers(asked: dict[str, Any]):
    assert openvino_version() == "2026.4.1"


def test_a_package_that_is_not_installed_is_told_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EnvironmentMismatch, match=r"pip install 'openvino>=2026.4,<2027'"):
        load_openvino()


def test_usage_reports_cannot_be_imported_while_openvino_is(monkeypatch: pytest.MonkeyPatch):
    seen: list[object] = []

    def record(name: str) -> types.ModuleType:
        seen.append(sys.modules.get("openvino_telemetry", "absent"))
        return types.ModuleType(name)

    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.setattr(importlib, "import_module", record)
    load_openvino()
    assert seen == [None]  # what an import takes for a package that is not there
    assert "openvino_telemetry" not in sys.modules


def test_requirement_is_that_of_the_package():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'openvino = ["{openvino_session.REQUIREMENT}"]' in project


@needs_openvino
def test_outputs_are_those_that_are_named(opened: OpenvinoSession):
    logits, more = opened.run(["logits", "more"], {"x": X})
    assert logits.tolist() == [[1, 3, 6], [2, 0, 4]]
    assert more.tolist() == [[2, 4, 7], [3, 1, 5]]
    assert [(item.name, item.shape) for item in opened.get_inputs()] == [("x", (None, 2))]
    assert {item.name for item in opened.get_outputs()} >= {"logits", "more"}


@needs_openvino
def test_an_output_is_found_whatever_else_it_is_called(tmp_path: Path):
    model = product()
    model.graph.node[0].output[0] = "a_state"
    model.graph.node[1].input[0] = "a_state"
    model.graph.node.insert(1, helper.make_node("Identity", ["a_state"], ["logits"]))
    model.graph.node.insert(0, helper.make_node("Identity", ["x"], ["a_copy"]))
    model.graph.node[1].input[0] = "a_copy"
    onnx.save(model, tmp_path / "model.onnx")
    session = OpenvinoSession(tmp_path / "model.onnx", threads=1, place="model.onnx")
    assert [item.name for item in session.get_inputs()] == ["x"]
    assert session.run(["logits"], {"x": X})[0].tolist() == [[1, 3, 6], [2, 0, 4]]


@needs_openvino
def test_outputs_stay_when_the_session_runs_again(opened: OpenvinoSession):
    [first] = opened.run(["logits"], {"x": X})
    opened.run(["logits"], {"x": np.zeros((2, 2), np.float32)})
    assert first.tolist() == [[1, 3, 6], [2, 0, 4]]


@needs_openvino
def test_an_input_of_an_earlier_run_is_never_taken(opened: OpenvinoSession):
    opened.run(["logits"], {"x": X})
    with pytest.raises(ValueError, match="the graph reads x too"):
        opened.run(["logits"], {})


@needs_openvino
def test_threads_may_run_it_at_once(tmp_path: Path):
    onnx.save(product(), tmp_path / "model.onnx")
    session = OpenvinoSession(tmp_path / "model.onnx", threads=1, streams=2, place="model.onnx")
    rows = [np.full((size, 2), size, np.float32) for size in range(1, 9)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: session.run(["logits"], {"x": row})[0], rows))
    assert all(np.array_equal(one, row @ WEIGHT) for one, row in zip(found, rows, strict=True))


@needs_openvino
@pytest.mark.parametrize(
    "content",
    [b"no graph", product(operator="Unheard", domain="com.microsoft").SerializeToString()],
)
def test_a_graph_that_cannot_run_is_told_in_one_line(content: bytes):
    with pytest.raises(EnvironmentMismatch) as raised:
        OpenvinoSession(content, threads=1, place="model.onnx")
    told = str(raised.value)
    assert told.startswith("model.onnx: provider 'openvino' cannot run this graph: ")
    assert "\n" not in told
    assert ".cpp:" not in told


@needs_openvino
def test_weights_in_a_file_of_their_own_are_read(tmp_path: Path):
    model = product()
    convert_model_to_external_data(model, location="model.onnx.data", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    session = OpenvinoSession(tmp_path / "model.onnx", threads=1, place="model.onnx")
    assert session.run(["logits"], {"x": X})[0].tolist() == [[1, 3, 6], [2, 0, 4]]


@needs_openvino
def test_an_import_leaves_the_home_directory_as_it_is(tmp_path: Path):
    script = (
        "import json, sys\n"
        "from compressor.runtime.openvino_session import load_openvino\n"
        "load_openvino().Core()\n"
        "print(json.dumps([name for name in sys.modules if name == 'openvino_telemetry']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert json.loads(done.stdout) == []
    assert list(tmp_path.iterdir()) == []


@needs_openvino
@needs_bfloat16
@pytest.mark.parametrize(("precision", "is_rounded"), [("fp32", False), ("bf16", True)])
def test_a_cpu_with_bfloat16_computes_in_it_only_where_asked(
    tmp_path: Path, precision: Precision, is_rounded: bool
):
    random = np.random.default_rng(0)
    weight = random.normal(size=(64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    x = random.normal(size=(16, 64)).astype(np.float32)
    session = OpenvinoSession(tmp_path / "m.onnx", threads=1, precision=precision, place="m.onnx")
    error = np.abs(session.run(["logits"], {"x": x})[0] - x @ weight).max()
    assert (error > 1e-3) == is_rounded  # 8 significant bits of sums of 64 products, or 24
