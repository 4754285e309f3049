from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.export.cpu_graph import split_skip_normalizations
from compressor.models.onnx_file import load_graph
from compressor.models.onnx_model import OnnxModel

RANDOM = np.random.default_rng(3)
X, SKIP = RANDOM.normal(size=(2, 2, 3, 8)).astype(np.float32)
CONSTANTS = {name: RANDOM.normal(size=8).astype(np.float32) for name in ("gamma", "beta", "bias")}


def skip_graph(inputs: list[str], outputs: list[str], opset: int = 20) -> onnx.ModelProto:
    """Return a graph of one fused node with epsilon 0.01, large enough to be seen in the result."""
    node = helper.make_node(
        "SkipLayerNormalization", inputs, outputs, domain="com.microsoft", epsilon=0.01
    )
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", "s", 8]) for n in "xr"]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs if n]
    weights = [numpy_helper.from_array(item, name) for name, item in CONSTANTS.items()]
    graph = helper.make_graph([node], "graph", values, results, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[NDArray[np.float32]] = session.run(None, {"x": X, "r": SKIP})
    return found


def normalized(total: NDArray[np.float32], shift: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = total.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    deviation = np.sqrt(centred.var(-1, keepdims=True) + 0.01)
    return centred / deviation * CONSTANTS["gamma"] + shift


def operators_that_run(path: Path, optimized: Path) -> Counter[str]:
    """Return the operators of the graph that ONNX Runtime made of the file when it opened it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def test_sum_and_normalization_compute_what_the_fused_operator_does():
    model = skip_graph(["x", "r", "gamma", "beta", "bias"], ["y"])
    fused = run(model)[0]
    assert split_skip_normalizations(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Sum", "LayerNormalization"]
    expected = normalized(X + SKIP + CONSTANTS["bias"], CONSTANTS["beta"])
    np.testing.assert_allclose(run(model)[0], expected, atol=1e-5)
    np.testing.assert_allclose(run(model)[0], fused, atol=1e-5)


def test_bias_and_shift_may_be_missing():
    model = skip_graph(["x", "r", "gamma"], ["y"])
    assert split_skip_normalizations(model) == 1
    expected = normalized(X + SKIP, np.zeros(8, np.float32))
    np.testing.assert_allclose(run(model)[0], expected, atol=1e-5)


def test_shift_may_be_missing_before_a_bias():
    model = skip_graph(["x", "r", "gamma", "", "bias"], ["y"])
    assert split_skip_normalizations(model) == 1
    expected = normalized(X + SKIP + CONSTANTS["bias"], np.zeros(8, np.float32))
    np.testing.assert_allclose(run(model)[0], expected, atol=1e-5)


def test_sum_that_the_next_layer_reads_keeps_its_name():
    model = skip_graph(["x", "r", "gamma", "beta", "bias"], ["y", "", "", "total"])
    assert split_skip_normalizations(model) == 1
    np.testing.assert_allclose(run(model)[1], X + SKIP + CONSTANTS["bias"], atol=1e-6)


def test_node_whose_mean_is_read_stays():
    model = skip_graph(["x", "r", "gamma", "beta"], ["y", "mean"])
    before = model.SerializeToString(deterministic=True)
    assert split_skip_normalizations(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_graph_older_than_the_standard_operator_stays():
    model = skip_graph(["x", "r", "gamma", "beta"], ["y"], opset=16)
    assert split_skip_normalizations(model) == 0
    assert [node.op_type for node in model.graph.node] == ["SkipLayerNormalization"]


@pytest.mark.parametrize("exported", ["exported_bert", "exported_vit"])
def test_onnxruntime_does_not_fuse_them_back(
    exported: str, request: pytest.FixtureRequest, tmp_path: Path
):
    model: OnnxModel = request.getfixturevalue(exported)
    written = Counter(node.op_type for node in load_graph(model.path).graph.node)
    running = operators_that_run(model.path, tmp_path / "optimized.onnx")
    assert written["Sum"] >= 2
    assert written["SkipLayerNormalization"] == running["SkipLayerNormalization"] == 0
    assert running["Sum"] == written["Sum"]
    assert running["LayerNormalization"] == written["LayerNormalization"]
