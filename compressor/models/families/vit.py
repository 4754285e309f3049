"""ViT: norms come first, and the size of a head is a setting of its own."""

from __future__ import annotations

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

PARTS = EncoderParts(
    layers="layers",
    attention=AttentionParts(
        module="attention",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        output="attention.o_proj",
        num_heads="num_attention_heads",
        head_dim="head_dim",
        width=None,
    ),
    feed_forward=FeedForwardParts(
        ffn_in="mlp.fc1", activation="mlp.activation_fn", ffn_out="mlp.fc2"
    ),
    norms_first=True,
    scales=None,
    neurons=NeuronSetting("intermediate_size"),
    activation="hidden_act",
    has_head_dim=True,
)
VIT = Family(PARTS, int8_simulated=True)
