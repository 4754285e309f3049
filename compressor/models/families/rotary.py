"""Encoders that rotate queries and keys by their position: GTE, NomicBERT, Jina v3, EuroBERT."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

GATED = EncoderParts(
    layers="layers",
    attention=AttentionParts(
        module="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        num_heads=None,
        head_dim="head_dim",
        width=None,
    ),
    feed_forward=FeedForwardParts(
        ffn_in="mlp.gate_proj",
        gate="mlp.up_proj",
        activation="mlp.act_fn",
        ffn_out="mlp.down_proj",
    ),
    norms_first=False,
    scales=None,
    neurons=NeuronSetting("intermediate_size"),
    activation="hidden_act",
    has_head_dim=True,
    rotates=True,
)
GTE = Family(GATED, int8_simulated=True)
EUROBERT = Family(
    replace(GATED, norms_first=True, has_head_dim=False, key_heads="num_key_value_heads"),
    int8_simulated=True,
)
JINA_EMBEDDINGS_V3 = Family(
    replace(
        GATED,
        feed_forward=FeedForwardParts(
            ffn_in="mlp.fc1", activation="mlp.activation_fn", ffn_out="mlp.fc2"
        ),
    ),
    int8_simulated=True,
)
