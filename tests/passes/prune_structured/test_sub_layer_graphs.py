from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compressor.export.to_onnx import export_onnx
from compressor.models.families.layers import (
    encoder_layers,
    find_encoder,
)
from compressor.models.structure import remove_attention, remove_feed_forward
from compressor.models.torch_model import TorchModel
from compressor.onnx_graph.onnx_file import load_graph
from compressor.passes.prune_structured.sub_layer_graphs import (
    MASK,
    STATES,
    attention_graph,
    feed_forward_graph,
    reads_one_token,
    sub_layer_kind,
)

STATES_IN = np.random.default_rng(0).standard_normal((2, 5, 32)).astype(np.float32)
MASK_IN = np.zeros((2, 1, 5, 5), np.float32)
MASK_IN[0, ..., 3:] = -1e9


def run(graph: onnx.ModelProto) -> Any:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    known = {STATES: STATES_IN, MASK: MASK_IN}
    return session.run(None, {item.name: known[item.name] for item in session.get_inputs()})[0]


def with_weights(graph: onnx.ModelProto, *weights: torch.Tensor) -> onnx.ModelProto:
    """Put weights in place of the random ones, in the order in which the graph uses them."""
    random = [
        tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    ]
    for tensor, weight in zip(random, weights, strict=True):
        values = weight.detach().numpy()
        assert list(tensor.dims) == list(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    return graph


def packed(part: Any) -> list[torch.Tensor]:
    inputs = (part.query, part.key, part.value)
    return [
        torch.cat([linear.weight for linear in inputs]).T,
        *(linear.bias for linear in inputs),
        part.output.weight.T,
        part.output.bias,
    ]


def inner(part: Any) -> list[torch.Tensor]:
    return [part.ffn_in.weight.T, part.ffn_in.bias, part.ffn_out.weight.T, part.ffn_out.bias]


@torch.no_grad()
def test_the_graphs_compute_the_sub_layers_of_bert(tiny_bert: TorchModel):
    layer, kind = (
        encoder_layers(tiny_bert.module)[0],
        sub_layer_kind(find_encoder(tiny_bert.module)),
    )
    states, mask = torch.from_numpy(STATES_IN), torch.from_numpy(MASK_IN)
    norms = layer.module.attention.output.LayerNorm, layer.module.output.LayerNorm
    attended = layer.module.attention(states, attention_mask=mask)[0]
    activated = layer.module.output(layer.module.intermediate(states), states)

    first = with_weights(
        attention_graph(kind, 4, 1, "float32"),
        *packed(layer.attention),
        norms[0].weight,
        norms[0].bias,
    )
    second = with_weights(
        feed_forward_graph(kind, 64, 1, "float32"),
        *inner(layer.feed_forward),
        norms[1].weight,
        norms[1].bias,
    )

    np.testing.assert_allclose(run(first), attended.numpy(), atol=1e-5)
    np.testing.assert_allclose(run(second), activated.numpy(), atol=1e-5)


@torch.no_grad()
def test_the_graphs_compute_the_sub_layers_of_vit_whose_norms_come_first(tiny_vit: TorchModel):
    layer, kind = encoder_layers(tiny_vit.module)[0], sub_layer_kind(find_encoder(tiny_vit.module))
    states = torch.from_numpy(STATES_IN)
    before, after = layer.module.layernorm_before, layer.module.layernorm_after
    attended = states + layer.module.attention(before(states))[0]
    activated = states + layer.module.mlp(after(states))

    first = attention_graph(kind, 4, 1, "float32")
    second = feed_forward_graph(kind, 64, 1, "float32")
    with_weights(first, before.weight, before.bias, *packed(layer.attention))
    with_weights(second, after.weight, after.bias, *inner(layer.feed_forward))

    np.testing.assert_allclose(run(first), attended.numpy(), atol=1e-5)
    np.testing.assert_allclose(run(second), activated.numpy(), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_of_one_token_the_graphs_compute_the_first_row_of_the_whole(
    request: pytest.FixtureRequest, name: str
):
    kind = sub_layer_kind(find_encoder(request.getfixturevalue(f"tiny_{name}").module))
    width = 4 * kind.head_dim
    whole = attention_graph(kind, 4, 1, "float32")
    weights = [
        torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in whole.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    ]
    place = next(i for i, weight in enumerate(weights) if weight.shape[-1] == 3 * width)
    apart = [weights[place][:, :width], weights[place][:, width:]]
    weights[place : place + 1] = apart
    one = with_weights(attention_graph(kind, 4, 1, "float32", one_token=True), *weights)
    np.testing.assert_allclose(run(one), run(whole)[:, :1], atol=1e-5)

    inner_whole = feed_forward_graph(kind, 64, 2, "float32")
    inner_one = feed_forward_graph(kind, 64, 2, "float32", one_token=True)
    np.testing.assert_allclose(run(inner_one), run(inner_whole)[:, :1], atol=1e-5)


@torch.no_grad()
def test_without_units_only_what_pruning_leaves_is_computed(tiny_bert: TorchModel):
    layer, kind = (
        encoder_layers(tiny_bert.module)[0],
        sub_layer_kind(find_encoder(tiny_bert.module)),
    )
    states = torch.from_numpy(STATES_IN)
    bias, norm = layer.attention.output.bias, layer.module.attention.output.LayerNorm
    remove_attention(layer)
    remove_feed_forward(layer)
    graph = with_weights(attention_graph(kind, 0, 1, "float32"), bias, norm.weight, norm.bias)
    expected = layer.module.attention(states)[0]
    np.testing.assert_allclose(run(graph), expected.numpy(), atol=1e-5)
    assert Counter(node.op_type for node in feed_forward_graph(kind, 0, 3, "int8").graph.node) == {
        "Sum": 3,
        "LayerNormalization": 3,
        "Identity": 1,
    }


HEAVY = ("MatMul", "Attention", "LayerNormalization", "BiasGelu", "Split")


@pytest.mark.parametrize(("name", "apart"), [("bert", 1), ("vit", 0)])
def test_the_graphs_have_the_operators_of_an_exported_model(
    request: pytest.FixtureRequest, name: str, apart: int, tmp_path: Path
):
    model: TorchModel = request.getfixturevalue(f"tiny_{name}")
    exported = export_onnx(model, tmp_path / "model.onnx", opset=23)
    kind = sub_layer_kind(find_encoder(model.module))
    found = Counter(node.op_type for node in load_graph(exported.path).graph.node)
    graphs = (attention_graph(kind, 4, 2, "float32"), feed_forward_graph(kind, 64, 2, "float32"))
    built = Counter(node.op_type for graph in graphs for node in graph.graph.node)
    built["MatMul"] += apart  # a last layer's query, where only one token's is computed
    built["LayerNormalization"] += 1  # after BERT's embeddings, before ViT's classifier
    assert {kind: found[kind] for kind in HEAVY} == {kind: built[kind] for kind in HEAVY}


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_int8_graphs_hold_integer_products_and_run(
    tiny_bert: TorchModel, activation: str, tmp_path: Path
):
    tiny_bert.module.config.hidden_act = activation
    kind = sub_layer_kind(find_encoder(tiny_bert.module))
    for graph, products in (
        (attention_graph(kind, 3, 2, "int8"), 2),  # 32 x 72, and 24 x 32 is too small
        (feed_forward_graph(kind, 64, 2, "int8"), 4),
    ):
        operators = Counter(node.op_type for node in graph.graph.node)
        assert operators["MatMulIntegerToFloat"] == products
        assert run(graph).shape == STATES_IN.shape
        assert np.isfinite(run(graph)).all()


class MeanOfTokens(nn.Module):
    """A classifier of the mean of all tokens, on a model of the task."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.base_model = module.base_model
        self.config, self.classifier = module.config, module.classifier

    def forward(self, **inputs: torch.Tensor) -> Any:
        states = self.base_model(**inputs).last_hidden_state
        return (self.classifier(states.mean(dim=1)),)


def encoded(model: TorchModel) -> dict[str, torch.Tensor]:
    example = model.task.dummy_example(6)
    batch = model.task.encode(model.preprocessor, [example, example])
    return {name: torch.from_numpy(value) for name, value in batch.items()}


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_vit"])
def test_a_classifier_of_the_first_token_reads_one(request: pytest.FixtureRequest, name: str):
    model: TorchModel = request.getfixturevalue(name)
    assert reads_one_token(find_encoder(model.module), encoded(model))
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_a_classifier_of_the_mean_reads_all(tiny_bert: TorchModel):
    encoder = replace(find_encoder(tiny_bert.module), module=MeanOfTokens(tiny_bert.module))
    assert not reads_one_token(encoder, encoded(tiny_bert))


@torch.no_grad()
def test_the_graphs_compute_a_gated_feed_forward_and_rotated_attention(make_encoder):
    module = make_encoder("gte").module
    layer, kind = encoder_layers(module)[0], sub_layer_kind(find_encoder(module))
    states, mask = torch.from_numpy(STATES_IN), torch.from_numpy(MASK_IN)
    angles = module.gte.rotary_emb(states, torch.arange(5)[None])
    own, attention = layer.module, layer.attention
    attended = own.post_attention_layernorm(
        states + own.self_attn(states, attention_mask=mask, position_embeddings=angles)[0]
    )
    activated = own.post_mlp_layernorm(states + own.mlp(states))
    cosines, sines = (torch.nn.functional.pad(it[0, :, :4], (0, 0, 0, 8187)) for it in angles)

    first, second = (
        attention_graph(kind, 4, 1, "float32"),
        feed_forward_graph(kind, 64, 1, "float32"),
    )
    weights = packed(attention)
    norm = own.post_attention_layernorm
    with_weights(first, *weights[:4], *[cosines, sines] * 2, *weights[4:], norm.weight, norm.bias)
    gated = torch.cat([own.mlp.gate_proj.weight, own.mlp.up_proj.weight]).T
    last = [own.mlp.down_proj.weight.T, own.mlp.down_proj.bias]
    norm = own.post_mlp_layernorm
    with_weights(second, gated, torch.zeros(64), *last, norm.weight, norm.bias)

    np.testing.assert_allclose(run(first), attended.numpy(), atol=1e-5)
    np.testing.assert_allclose(run(second), activated.numpy(), atol=1e-5)
