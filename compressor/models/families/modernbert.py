"""ModernBERT: one matrix for queries, keys and values, a gated feed-forward, norms first."""

from __future__ import annotations

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

MODERNBERT = Family(
    EncoderParts(
        layers="layers",
        attention=AttentionParts(
            module="attn",
            query="attn.Wqkv",
            key="attn.Wqkv",
            value="attn.Wqkv",
            output="attn.Wo",
            num_heads=None,
            head_dim="head_dim",
            width=None,
        ),
        feed_forward=FeedForwardParts(
            ffn_in="mlp.Wi", gate="mlp.Wi", activation="mlp.act", ffn_out="mlp.Wo"
        ),
        norms_first=True,
        scales=None,
        neurons=NeuronSetting("intermediate_size"),
        activation="hidden_activation",
        has_head_dim=False,
        rotates=True,
        first_layer_stays="it alone reads the embeddings without a norm",
    ),
    int8_simulated=True,
)
