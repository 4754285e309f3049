from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import transformers
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.export.cpu_graph import split_skip_normalizations
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.structure import EncoderShape, apply_shape
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.int8_weights import store_int8_weights
from compressor.onnx_graph.onnx_file import load_graph
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.passes.convert_fp16.float16 import convert_to_float16
from compressor.tasks import load_task

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


def split(model: onnx.ModelProto) -> tuple[int, onnx.ModelProto]:
    """Return how many nodes were replaced, and the graph after it."""
    program = ir.from_proto(model)
    return split_skip_normalizations(program), ir.to_proto(program)


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
    replaced, model = split(model)
    assert replaced == 1
    assert [node.op_type for node in model.graph.node] == ["Sum", "LayerNormalization"]
    expected = normalized(X + SKIP + CONSTANTS["bias"], CONSTANTS["beta"])
    np.testing.assert_allclose(run(model)[0], expected, atol=1e-5)
    np.testing.assert_allclose(run(model)[0], fused, atol=1e-5)


def test_bias_and_shift_may_be_missing():
    model = skip_graph(["x", "r", "gamma"], ["y"])
    replaced, model = split(model)
    assert replaced == 1
    expected = normalized(X + SKIP, np.zeros(8, np.float32))
    np.testing.assert_allclose(run(model)[0], expected, atol=1e-5)


def test_shift_may_be_missing_before_a_bias():
    model = skip_graph(["x", "r", "gamma", "", "bias"], ["y"])
    replaced, model = split(model)
    assert replaced == 1
    expected = normalized(X + SKIP + CONSTANTS["bias"], np.zeros(8, np.float32))
    np.testing.assert_allclose(run(model)[0], expected, atol=1e-5)


def test_sum_that_the_next_layer_reads_keeps_its_name():
    model = skip_graph(["x", "r", "gamma", "beta", "bias"], ["y", "", "", "total"])
    replaced, model = split(model)
    assert replaced == 1
    np.testing.assert_allclose(run(model)[1], X + SKIP + CONSTANTS["bias"], atol=1e-6)


def test_node_whose_mean_is_read_stays():
    model = skip_graph(["x", "r", "gamma", "beta"], ["y", "mean"])
    replaced, after = split(model)
    assert replaced == 0
    assert [node.op_type for node in after.graph.node] == ["SkipLayerNormalization"]


def test_graph_older_than_the_standard_operator_stays():
    model = skip_graph(["x", "r", "gamma", "beta"], ["y"], opset=16)
    replaced, after = split(model)
    assert replaced == 0
    assert [node.op_type for node in after.graph.node] == ["SkipLayerNormalization"]


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


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 70,
    "initializer_range": 0.3,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}


@pytest.mark.parametrize(
    ("model_type", "changes", "opset", "attentions"),
    [
        ("roberta", {"pad_token_id": 0}, 23, 2),
        ("roberta", {"pad_token_id": 0}, None, 0),
        ("distilbert", DISTILBERT, 23, 2),
        ("distilbert", DISTILBERT, None, 0),
        ("mpnet", {"pad_token_id": 0}, 23, 0),  # positions enter each head: none is fused
    ],
)
def test_rewritten_graphs_compute_what_pytorch_computes(
    tiny_bert: TorchModel,
    model_type: str,
    changes: dict[str, int],
    opset: int | None,
    attentions: int,
    tmp_path: Path,
):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=len(tiny_bert.preprocessor), **SIZES | changes
    )
    module = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():  # fresh biases are zero, and a wrong place of zeros is not seen
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model = TorchModel(module, tiny_bert.preprocessor, tiny_bert.task)
    exported = export_onnx(model, tmp_path / "model.onnx", opset=opset)
    graph = load_graph(exported.path).graph
    operators = Counter(node.op_type for node in graph.node)
    texts = ["", "film", "a good film", "the plot was very " * 15, "bad ."]
    batches = [model.task.encode(model.preprocessor, group) for group in ([texts[0]], texts)]
    for batch in [*batches, *({k: v[3:4] for k, v in item.items()} for item in batches[1:])]:
        np.testing.assert_allclose(exported.predict(batch), model.predict(batch), atol=2e-5)
    assert batches[1]["input_ids"].shape == (5, 62)
    assert (operators["Attention"], operators["Softmax"]) == (attentions, 2 - attentions)
    assert operators["SkipLayerNormalization"] == operators["MultiHeadAttention"] == 0
    assert operators["BiasGelu"] == 2
    widths = {item.name: item.type.tensor_type.shape.dim for item in graph.value_info}
    inner = [widths[node.output[0]][1] for node in graph.node if node.op_type == "BiasGelu"]
    assert inner[0].dim_param == "sequence"
    assert inner[1].dim_value == 1  # of the last layer, one token


LAYERS = [(0, 64), (3, 0), (0, 0), (1, 16)]  # heads and neurons


@pytest.fixture(scope="module")
def pruned(tiny_bert_dir: Path) -> TorchModel:
    """Return a BERT of which two layers lost all heads and two all neurons."""
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert_dir)
    sizes = SIZES | {"num_hidden_layers": 4, "vocab_size": len(tokenizer)}
    module = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).eval()
    layers = [{"num_heads": heads, "ffn_neurons": neurons} for heads, neurons in LAYERS]
    apply_shape(module, EncoderShape.from_dict({"head_dim": 8, "layers": layers}))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return TorchModel(module, tokenizer, load_task("text-classification"))


def test_sub_layers_without_units_are_gone_and_the_others_stay_fused(
    pruned: TorchModel, tmp_path: Path
):
    exported = export_onnx(pruned, tmp_path / "model.onnx", opset=23)
    graph = load_graph(exported.path)
    operators = Counter(node.op_type for node in graph.graph.node)
    weights = {item.name: tuple(item.dims) for item in graph.graph.initializer}
    for texts in (["film"], ["", "the plot was very " * 15, "bad ."]):
        batch = pruned.task.encode(pruned.preprocessor, texts)
        np.testing.assert_allclose(exported.predict(batch), pruned.predict(batch), atol=2e-5)
    assert weights["bert.encoder.layer.1.attention.self.query_key_value.weight"] == (32, 72)
    assert weights["bert.encoder.layer.3.attention.self.key_value.weight"] == (32, 16)
    # Each of the 8 sub-layers keeps its normalisation; 4 have anything to add before it.
    assert (operators["LayerNormalization"], operators["Sum"]) == (9, 4)
    assert (operators["Attention"], operators["BiasGelu"]) == (2, 2)
    assert operators["Expand"] == 1  # of the mask
    assert not operators.keys() & {"Reshape", "MultiHeadAttention", "SkipLayerNormalization"}
    store_int8_weights(graph, find_quantizable_weights(graph), activations="per_token")
    integer = Counter(node.op_type for node in graph.graph.node)
    assert integer["MatMulIntegerToFloat"] == 11  # 4 + 2 of attention, 4 of FFNs, pooler, logits
    assert (integer["Attention"], integer["BiasGelu"], integer["MatMul"]) == (2, 2, 0)


def test_pruned_layers_keep_the_fusions_of_a_gpu_in_half_precision(
    pruned: TorchModel, tmp_path: Path
):
    exported = export_onnx(pruned, tmp_path / "model.onnx", provider="cuda")
    converted = convert_to_float16(load_graph(exported.path))
    operators = Counter(node.op_type for node in converted.graph.node)
    assert (operators["SkipLayerNormalization"], operators["MultiHeadAttention"]) == (8, 2)
    assert operators["BiasGelu"] == 2
    heads = [
        attribute.i
        for node in converted.graph.node
        for attribute in node.attribute
        if attribute.name == "num_heads"
    ]
    assert heads == [3, 1]
