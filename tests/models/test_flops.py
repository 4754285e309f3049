from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import EnvironmentMismatch
from compressor.export.to_onnx import export_onnx
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.flops import encoder_flops
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.int8_weights import store_int8_weights
from compressor.onnx_graph.onnx_file import load_graph, save_graph
from compressor.onnx_graph.quantizable_weights import find_quantizable_weights
from compressor.passes.convert_fp16.cuda_kernels import Float16Type
from compressor.passes.convert_fp16.float16 import convert_to_float16
from compressor.passes.prune_structured.budget import encoder_cost
from compressor.passes.prune_structured.unit_removal import prune_heads, prune_neurons


def graph_of(
    path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], **more: Any
) -> Path:
    """Write a graph from `x`, shape `(batch, tokens, 6)`, to `logits`."""
    tensors = [
        numpy_helper.from_array(np.zeros(shape, more.get("dtype", np.float32)), name)
        for name, shape in weights.items()
    ]
    value = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", 6])]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", value, [logits], tensors)
    opsets = [
        helper.make_opsetid("", more.get("opset", 18)),
        helper.make_opsetid("com.microsoft", 1),
    ]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    save_graph(model, path)
    return path


def ones(tokens: int) -> dict[str, Any]:
    return {"x": np.ones((1, tokens, 6), np.float32)}


def test_products_of_a_layer_are_counted_and_no_others(tmp_path: Path):
    node = helper.make_node
    path = graph_of(
        tmp_path / "model.onnx",
        [
            node("MatMul", ["x", "embeddings.projection.weight"], ["e"]),  # not a layer
            node("MatMul", ["e", "encoder.layer.0.attention.query.weight"], ["q"]),  # 2*5*6*4
            node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
            node("MatMul", ["q", "k"], ["scores"]),  # 2*5*4*5
            node("Softmax", ["scores"], ["weights"]),
            node(
                "FusedMatMul", ["weights", "q"], ["c"], domain="com.microsoft", transA=1
            ),  # 2*5*5*4
            node("MatMul", ["c", "encoder.layer.0.intermediate.dense.weight"], ["i"]),  # 2*5*4*9
            node("Gather", ["i", "first"], ["f"], axis=1),
            node("Gemm", ["f", "classifier.weight"], ["logits"], transB=1),  # not a layer
        ],
        {
            "embeddings.projection.weight": (6, 6),
            "encoder.layer.0.attention.query.weight": (6, 4),
            "encoder.layer.0.intermediate.dense.weight": (4, 9),
            "classifier.weight": (2, 9),
        },
    )
    model = load_graph(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    save_graph(model, path)

    expected = 2 * 5 * 6 * 4 + 2 * 5 * 4 * 5 + 2 * 5 * 5 * 4 + 2 * 5 * 4 * 9
    assert encoder_flops(path, ones(5)) == expected


@pytest.mark.parametrize(
    ("domain", "operator", "settings"),
    [
        ("com.microsoft", "MultiHeadAttention", {"num_heads": 3}),
        ("", "Attention", {"q_num_heads": 3, "kv_num_heads": 3}),
    ],
)
def test_attention_operators_count_scores_and_weighted_sum(
    tmp_path: Path, domain: str, operator: str, settings: dict[str, int]
):
    node = helper.make_node(operator, ["x", "x", "x"], ["logits"], domain=domain, **settings)
    path = graph_of(tmp_path / "model.onnx", [node], {}, opset=23)
    # 7 queries of 6 features against 7 keys, and as many values summed.
    assert encoder_flops(path, ones(7)) == 2 * (2 * 7 * 6 * 7)


def cut(model: TorchModel) -> None:
    prune_heads(find_encoder(model.module), {0: [1], 1: [0, 2]})
    prune_neurons(find_encoder(model.module), {0: list(range(16)), 1: list(range(40))})


def without_layers(model: TorchModel) -> None:
    prune_heads(find_encoder(model.module), {0: [0, 1, 2, 3]})
    prune_neurons(find_encoder(model.module), {1: list(range(64))})


def unread_flops(module: Any, length: int) -> int:
    """Count what a classifier that reads one token of the last layer does not need, by hand.

    That is the query, attention, output projection and feed-forward network of all other tokens.
    """
    last = encoder_layers(module)[-1]
    width, neurons = 8 * last.num_heads, last.num_neurons
    per_token = 2 * 32 * width + 4 * length * width + 2 * width * 32 + 4 * 32 * neurons
    return (length - 1) * per_token


def batch_of(name: str) -> dict[str, Any]:
    if name == "vit":
        return {"pixel_values": np.zeros((1, 1, 8, 8), np.float32)}
    names = ("input_ids", "token_type_ids", "attention_mask")
    return {key: np.ones((1, 11), np.int64) for key in names}


@pytest.mark.parametrize(
    ("name", "change", "fuse"),
    [
        ("bert", cut, False),
        ("bert", cut, True),
        ("bert", without_layers, True),
        ("vit", cut, False),
    ],
)
def test_the_count_on_the_graph_is_the_one_that_ratios_refer_to(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, change: Any, fuse: bool
):
    model: TorchModel = request.getfixturevalue(f"tiny_{name}")
    if change is not None:
        change(model)
    exported = export_onnx(model, tmp_path / "model.onnx", fuse=fuse)
    length = 11 if name == "bert" else 17  # 4 x 4 patches and the class token
    expected = encoder_cost(encoder_layers(model.module), "flops", length).total * length
    if fuse:
        expected -= unread_flops(model.module, length)

    assert encoder_flops(exported.path, batch_of(name)) == expected

    graph = load_graph(exported.path)
    weights = [weight for weight in find_quantizable_weights(graph) if weight.obstacle is None]
    for activations in ("per_token", "per_tensor"):
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        store_int8_weights(changed, weights, activations=activations)
        save_graph(changed, tmp_path / "int8.onnx")
        assert encoder_flops(tmp_path / "int8.onnx", batch_of(name)) == expected


def test_a_torch_count_of_the_dense_model_agrees(tiny_vit: TorchModel):
    """PyTorch's own counter, which knows nothing of this package, on the encoder alone."""
    from torch.utils.flop_counter import FlopCounterMode

    tiny_vit.module.set_attn_implementation("eager")
    pixels = torch.zeros(1, 1, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tiny_vit.module(pixel_values=pixels)
    everything = counter.get_total_flops()
    patches, classifier = 2 * 16 * 4 * 32, 2 * 32 * 3
    cost = encoder_cost(encoder_layers(tiny_vit.module), "flops", 17)
    assert everything - patches - classifier == cost.total * 17


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match=r"model\.onnx"):
        encoder_flops(tmp_path / "model.onnx", ones(1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_changes_no_count(
    exported_bert_for_cuda: OnnxModel, tmp_path: Path, dtype: Float16Type
):
    """A CPU has no kernels of bfloat16, and shapes do not depend on the type."""
    expected = encoder_flops(exported_bert_for_cuda.path, batch_of("bert"))
    graph = convert_to_float16(load_graph(exported_bert_for_cuda.path), dtype=dtype)
    save_graph(graph, tmp_path / "half.onnx")

    assert encoder_flops(tmp_path / "half.onnx", batch_of("bert")) == expected > 0


def test_pooler_and_classifier_behind_their_scales_do_not_count(
    exported_standard_bert: OnnxModel, tmp_path: Path
):
    """In pairs for TensorRT a weight is read through the node that widens it."""
    graph = load_graph(exported_standard_bert.path)
    for node in list(graph.graph.node):
        for position, name in enumerate(node.input):
            tensor = next((it for it in graph.graph.initializer if it.name == name), None)
            if node.op_type in ("MatMul", "Gemm") and tensor is not None and len(tensor.dims) == 2:
                values = numpy_helper.to_array(tensor)
                scale, integers = np.abs(values).max() / 127, name
                tensor.CopyFrom(
                    numpy_helper.from_array(np.rint(values / scale).astype(np.int8), integers)
                )
                graph.graph.initializer.append(
                    numpy_helper.from_array(np.float32(scale), f"{name}_scale")
                )
                widen = helper.make_node(
                    "DequantizeLinear", [integers, f"{name}_scale"], [f"{name}_float"]
                )
                graph.graph.node.insert(0, widen)
                node.input[position] = f"{name}_float"
    save_graph(graph, tmp_path / "pairs.onnx")

    expected = encoder_flops(exported_standard_bert.path, batch_of("bert"))
    assert encoder_flops(tmp_path / "pairs.onnx", batch_of("bert")) == expected
