from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from compressor.models.families.layers import (
    ConstantOutput,
    HeadlessAttention,
    encoder_layers,
    find_encoder,
)
from compressor.models.families.prunable import UnsupportedArchitecture, require_prunable_heads
from compressor.models.torch_model import TorchModel

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
}


def build(model_type: str, **changes: Any) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **changes})
    return transformers.AutoModelForSequenceClassification.from_config(config)


def test_the_parts_of_a_bert_layer_are_found(tiny_bert: TorchModel):
    first, second = encoder_layers(tiny_bert.module)

    own = tiny_bert.module.bert.encoder.layer[1]
    assert (first.index, second.index) == (0, 1)
    assert second.module is own
    assert second.attention is not None
    assert second.attention.module is own.attention.self
    assert second.attention.query is own.attention.self.query
    assert second.attention.key is own.attention.self.key
    assert second.attention.value is own.attention.self.value
    assert second.attention.output is own.attention.output.dense
    assert (second.num_heads, second.attention.head_dim) == (4, 8)
    assert second.feed_forward is not None
    assert second.feed_forward.ffn_in is own.intermediate.dense
    assert second.feed_forward.ffn_out is own.output.dense
    assert second.num_neurons == 64
    assert find_encoder(tiny_bert.module).layer_list is tiny_bert.module.bert.encoder.layer


def test_the_parts_of_a_vit_layer_are_found(tiny_vit: TorchModel):
    first, _ = encoder_layers(tiny_vit.module)

    own = tiny_vit.module.vit.layers[0]
    assert first.attention is not None
    assert first.attention.output is own.attention.o_proj
    assert (first.num_heads, first.attention.head_dim) == (4, 8)
    assert first.feed_forward is not None
    assert first.feed_forward.ffn_out is own.mlp.fc2


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        (
            "albert",
            {"embedding_size": 16, "num_hidden_groups": 2},
            "its layers are in several groups, each with weights of its own (num_hidden_groups)",
        ),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "it is configured with scale_attn_by_inverse_layer_idx",
        ),
        (
            "mobilebert",
            {},
            "its layers have several feed-forward networks, and a layer is pruned as an attention "
            "and one feed-forward network around one width",
        ),
        ("ibert", {}, "where its heads and neurons sit is not known"),
        ("bert", {"is_decoder": True}, "it is configured as a decoder"),
    ],
)
def test_architectures_that_cannot_be_pruned_are_refused_with_the_reason(
    model_type: str, changes: dict[str, Any], reason: str
):
    module = build(model_type, **changes)
    with pytest.raises(UnsupportedArchitecture) as caught:
        encoder_layers(module)
    assert caught.value.model_type == model_type
    assert caught.value.reason == reason
    assert "supported model types are albert, audio-spectrogram-transformer, beit, " in str(
        caught.value
    )


def test_a_gated_feed_forward_is_refused():
    config = transformers.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=8,
        patch_size=2,
        use_swiglu_ffn=True,
    )
    with pytest.raises(UnsupportedArchitecture) as caught:
        encoder_layers(transformers.Dinov2ForImageClassification(config))
    assert caught.value.reason == "its feed-forward is gated (use_swiglu_ffn)"


def test_keys_shared_by_several_queries_are_refused(tiny_bert: TorchModel):
    tiny_bert.module.bert.encoder.layer[0].attention.self.key = nn.Linear(32, 16)
    with pytest.raises(UnsupportedArchitecture) as caught:
        encoder_layers(tiny_bert.module)
    assert caught.value.reason == (
        "query, key and value must each be 4 heads of 8, but one is 16 wide"
    )


def test_a_layer_that_is_not_linear_any_more_is_refused(tiny_vit: TorchModel):
    tiny_vit.module.vit.layers[1].mlp.fc1 = nn.Identity()
    with pytest.raises(UnsupportedArchitecture) as caught:
        encoder_layers(tiny_vit.module)
    assert caught.value.reason == "'mlp.fc1' must be a linear layer, found Identity"


def test_heads_can_go_where_no_bias_has_their_number(tiny_bert: TorchModel, tiny_vit: TorchModel):
    require_prunable_heads(tiny_bert.module.config)
    require_prunable_heads(tiny_vit.module.config)


def test_a_constant_output_gives_the_bias_to_every_token():
    linear = nn.Linear(5, 3)
    output = ConstantOutput(linear)(torch.full((2, 4, 3), torch.nan))
    assert torch.equal(output, linear.bias.detach().expand(2, 4, 3))


def test_a_constant_output_without_a_bias_gives_zeros():
    output = ConstantOutput(nn.Linear(5, 3, bias=False))(torch.ones(2, 4, 3))
    assert torch.equal(output, torch.zeros(2, 4, 3))


def test_headless_attention_ignores_the_mask_and_has_no_map():
    states = torch.randn(2, 4, 3)
    output, weights = HeadlessAttention()(states, torch.zeros(1), past_key_values=None)
    assert output is states
    assert weights is None


def test_layers_that_share_a_weight_are_refused(tiny_bert: TorchModel):
    first, second = tiny_bert.module.bert.encoder.layer
    second.output.dense.weight = first.output.dense.weight
    with pytest.raises(UnsupportedArchitecture) as caught:
        encoder_layers(tiny_bert.module)
    assert caught.value.reason.startswith("layers 0 and 1 share a weight")


def test_one_layer_used_twice_is_refused(tiny_vit: TorchModel):
    layers = tiny_vit.module.vit.layers
    layers[1] = layers[0]
    with pytest.raises(UnsupportedArchitecture, match="layers 0 and 1 share a weight"):
        encoder_layers(tiny_vit.module)
