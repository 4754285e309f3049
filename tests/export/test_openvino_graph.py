"""Biases before their split and scales inside weights change no number, and leave fewer nodes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from openvino_there import needs_openvino

from compressor.export.openvino_graph import add_biases_before_splits, scale_queries
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint

RANDOM = np.random.default_rng(5)
WIDTH = 4
X = RANDOM.normal(size=(2, 3, WIDTH)).astype(np.float32)
CONSTANTS = {
    "packed": RANDOM.normal(size=(WIDTH, 3 * WIDTH)).astype(np.float32),
    **{f"{part}_bias": RANDOM.normal(size=WIDTH).astype(np.float32) for part in "qkv"},
    "sizes": np.array([WIDTH] * 3, np.int64),
    "heads": np.array([0, 0, 2, WIDTH // 2], np.int64),
    "scale": np.array(0.5, np.float32),
}


def attention(*, outputs: tuple[str, ...] = ("mixed",)) -> onnx.ModelProto:
    """Return attention of two heads whose query, key and value are one matmul."""
    nodes = [
        helper.make_node("MatMul", ["x", "packed"], ["product"]),
        helper.make_node("Split", ["product", "sizes"], ["q", "k", "v"], axis=-1),
        *(helper.make_node("Add", [part, f"{part}_bias"], [f"{part}_state"]) for part in "qkv"),
        *(helper.make_node("Reshape", [f"{p}_state", "heads"], [f"{p}_split"]) for p in "qkv"),
        *(
            helper.make_node("Transpose", [f"{part}_split"], [f"{part}_heads"], perm=perm)
            for part, perm in {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}.items()
        ),
        helper.make_node("MatMul", ["q_heads", "k_heads"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["weights"]),
        helper.make_node("MatMul", ["weights", "v_heads"], ["mixed"]),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "s", WIDTH])]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "s", width])
        for name, width in {"product": 3 * WIDTH, **dict.fromkeys("qkv", WIDTH)}.items()
    ]
    weights = [numpy_helper.from_array(item, name) for name, item in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "graph", values, results, weights, value_info=shapes)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[NDArray[np.float32]] = session.run(None, {"x": X})
    return found


def rewritten(model: onnx.ModelProto) -> tuple[tuple[int, int], onnx.ModelProto]:
    """Return how many splits and scores were rewritten, and the graph after it."""
    program = ir.from_proto(model)
    done = add_biases_before_splits(program.graph), scale_queries(program.graph)
    return done, ir.to_proto(program)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_one_bias_is_added_to_the_packed_product_and_queries_are_scaled_by_their_weights():
    plain = attention()
    done, graph = rewritten(plain)
    assert done == (1, 1)
    assert operators(plain) - operators(graph) == {"Add": 2, "Mul": 1}
    [added] = [node for node in graph.graph.node if node.op_type == "Add"]
    [split] = [node for node in graph.graph.node if node.op_type == "Split"]
    assert split.input[0] == added.output[0]
    np.testing.assert_allclose(run(graph)[0], run(plain)[0], rtol=1e-5)


def test_only_the_columns_of_the_query_are_scaled():
    _, graph = rewritten(attention())
    stored = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
    expected = np.concatenate([CONSTANTS["packed"][:, :4] * 0.5, CONSTANTS["packed"][:, 4:]], 1)
    assert np.array_equal(stored["packed"], expected)
    biases = [CONSTANTS["q_bias"] * 0.5, CONSTANTS["k_bias"], CONSTANTS["v_bias"]]
    assert np.array_equal(stored["product_bias"], np.concatenate(biases))


@pytest.mark.parametrize(
    ("read", "expected"),
    [("product", (0, 0)), ("k", (0, 0)), ("q_state", (1, 0)), ("scores", (1, 0))],
)
def test_what_something_else_reads_stays_as_it_is(read: str, expected: tuple[int, int]):
    plain = attention(outputs=("mixed", read))
    done, graph = rewritten(plain)
    assert done == expected
    for own, other in zip(run(graph), run(plain), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5)


@pytest.fixture(scope="module")
def exported(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    path = tmp_path_factory.mktemp("openvino") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_bert_dir), path, provider="openvino", threads=1)


def batch_of(model: TorchModel) -> dict[str, NDArray[np.int64]]:
    texts = ["a good film", "the plot was very dull and the story was quite poor"]
    return model.task.encode(model.preprocessor, texts)


def test_an_encoder_is_left_with_one_bias_for_each_packed_product(
    exported: OnnxModel, exported_bert: OnnxModel, tiny_bert: TorchModel
):
    before, after = (operators(onnx.load(item.path)) for item in (exported_bert, exported))
    # Of two layers; in the last the query is of one token, beside a packed key and value.
    assert before - after == {"Add": 3, "Mul": 1}
    on_cpu = OnnxModel(exported.path, threads=1)
    batch = batch_of(tiny_bert)
    np.testing.assert_allclose(on_cpu.predict(batch), tiny_bert.predict(batch), atol=1e-5)


@needs_openvino
def test_openvino_computes_what_pytorch_computes(exported: OnnxModel, tiny_bert: TorchModel):
    batch = batch_of(tiny_bert)
    np.testing.assert_allclose(exported.predict(batch), tiny_bert.predict(batch), atol=1e-5)
