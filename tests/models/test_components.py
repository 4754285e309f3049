from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.measurements import ComponentBytes
from compressor.models.components import (
    component_bytes,
    component_of,
    layer_of,
    stored_weights,
)
from compressor.onnx_graph.onnx_file import bytes_on_disk, save_graph

WIDTHS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
IMAGE = {**WIDTHS, "image_size": 8, "patch_size": 2, "num_channels": 1}
TEXTS = ("bert", "camembert", "deberta-v2", "electra", "mpnet", "roberta", "xlm-roberta")
CASES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(TEXTS, WIDTHS),
    "albert": {**WIDTHS, "embedding_size": 16},
    "distilbert": DISTILBERT,
    "modernbert": WIDTHS,
    "beit": {**IMAGE, "use_relative_position_bias": True},
    "deit": {**IMAGE, "architectures": ["DeiTForImageClassification"]},
    "dinov2": {**IMAGE, "mlp_ratio": 2, "num_labels": 3},
    "vit": IMAGE,
}
# What is neither embedding nor layer: classifier, pooler, a norm after the last layer.
OUTSIDE = re.compile(r"classifier|pooler|^head|norm\.(weight|bias)$")


def parameters(model_type: str) -> dict[str, int]:
    """Return the names and sizes of the parameters of a tiny classifier of this type."""
    settings = CASES[model_type]
    if "image_size" in settings:
        auto: Any = transformers.AutoModelForImageClassification
    else:
        auto = transformers.AutoModelForSequenceClassification
        settings = {**settings, "vocab_size": 50, "pad_token_id": 0, "max_position_embeddings": 66}
    module = auto.from_config(transformers.AutoConfig.for_model(model_type, **settings))
    return {name: value.numel() for name, value in module.named_parameters()}


@pytest.mark.parametrize("model_type", sorted(CASES))
def test_only_what_lies_outside_layers_and_embeddings_is_other(model_type: str):
    others = [name for name in parameters(model_type) if component_of(name) == "other"]
    assert others
    assert [name for name in others if layer_of(name) is not None or not OUTSIDE.search(name)] == []


@pytest.mark.parametrize("model_type", sorted(set(CASES) - {"albert"}))
def test_every_layer_has_its_products_in_the_two_parts(model_type: str):
    for layer in (0, 1):
        own = {
            name: size for name, size in parameters(model_type).items() if layer_of(name) == layer
        }
        matrices = {name: size for name, size in own.items() if size >= 32 * 32}
        parts = {"attention": 0, "feed_forward": 0}
        for name, size in matrices.items():
            parts[component_of(name)] += size
        # Four projections of 32 x 32; two products of 32 x 64 (ModernBERT's first is gated: three).
        gated = 3 if model_type == "modernbert" else 2
        assert parts == {"attention": 4 * 32 * 32, "feed_forward": gated * 32 * 64}


@pytest.mark.parametrize(
    ("name", "component", "layer"),
    [
        ("bert.embeddings.word_embeddings.weight_int8", "embeddings", None),
        ("electra.embeddings_project.weight", "embeddings", None),
        ("mpnet.encoder.relative_attention_bias.weight", "attention", None),
        ("bert.encoder.layer.11.attention.self.query_key_value.weight_scale", "attention", 11),
        ("distilbert.transformer.layer.3.sa_layer_norm.bias", "attention", 3),
        ("distilbert.transformer.layer.3.output_layer_norm.bias", "feed_forward", 3),
        ("vit.layers.1.layernorm_after.weight", "feed_forward", 1),
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", "feed_forward", None),
        ("/bert/encoder/layer.4/output/dense/MatMul_quant", "feed_forward", 4),
        ("/deberta/encoder/layer.4/attention/self/query_proj/MatMul", "attention", 4),
        ("classifier.out_proj.weight", "other", None),
        ("output.weight", "other", None),
        ("onnx::MatMul_1234", "other", None),
    ],
)
def test_names_of_checkpoints_and_of_other_exporters_are_understood(
    name: str, component: str, layer: int | None
):
    assert (component_of(name), layer_of(name)) == (component, layer)


def graph_of(nodes: list[onnx.NodeProto], **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, [None, 8])],
        [value(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_weight_without_a_telling_name_is_placed_by_the_node_that_reads_it():
    product = helper.make_node(
        "MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/encoder/layer.2/attention/self/key/MatMul"
    )
    [weight] = stored_weights(
        graph_of([product], **{"onnx::MatMul_7": np.ones((8, 8), np.float32)})
    )
    assert (weight.component, weight.layer, weight.num_bytes) == ("attention", 2, 256)


def test_a_quantized_weight_is_placed_by_what_reads_it_after_it_was_dequantized():
    nodes = [
        helper.make_node("DequantizeLinear", ["w_quantized", "w_scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="/encoder/layer.0/output/dense/MatMul"),
    ]
    model = graph_of(nodes, w_quantized=np.ones((8, 8), np.int8), w_scale=np.ones((), np.float32))
    placed = {item.name: (item.component, item.layer) for item in stored_weights(model)}
    assert placed == {"w_quantized": ("feed_forward", 0), "w_scale": ("feed_forward", 0)}


def test_the_parts_add_up_to_the_bytes_on_disk(tmp_path: Path):
    nodes = [
        helper.make_node("MatMul", ["x", "encoder.layer.0.attention.o.weight"], ["y"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(3, "f"))),
        helper.make_node("Add", ["y", "c"], ["z"]),
    ]
    path = tmp_path / "model.onnx"
    weight = np.ones((8, 3), np.float32)
    save_graph(graph_of(nodes, **{"encoder.layer.0.attention.o.weight": weight}), path)
    size = path.stat().st_size
    assert component_bytes(path) == ComponentBytes(0, 8 * 3 * 4, 0, size - 8 * 3 * 4)


def test_bytes_in_a_data_file_count_and_so_does_its_padding(tmp_path: Path):
    node = helper.make_node("MatMul", ["x", "encoder.layer.0.mlp.fc1.weight"], ["y"])
    weight = np.ones((8, 64), np.float32)
    path = tmp_path / "model.onnx"
    model = graph_of([node], **{"encoder.layer.0.mlp.fc1.weight": weight})
    save_graph(model, path, largest_single_file=1000)
    assert (tmp_path / "model.onnx.data").is_file()
    found = component_bytes(path)
    assert found.feed_forward == weight.nbytes
    assert found.feed_forward + found.other == bytes_on_disk(path)


def test_a_value_stored_as_numbers_and_not_as_bytes_is_counted_in_its_type():
    model = graph_of([helper.make_node("Gather", ["ffn.w", "x"], ["y"])])
    model.graph.initializer.append(helper.make_tensor("ffn.w", TensorProto.INT64, [3], [1, 2, 3]))
    [weight] = stored_weights(model)
    assert (weight.elements, weight.num_bytes) == (3, 24)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match=r"absent\.onnx: not found"):
        component_bytes(tmp_path / "absent.onnx")
