"""GPT-2: causal, norms first, one matrix for queries, keys and values."""

from __future__ import annotations

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

GPT2 = Family(
    EncoderParts(
        layers="h",
        attention=AttentionParts(
            module="attn",
            query="attn.c_attn",
            key="attn.c_attn",
            value="attn.c_attn",
            output="attn.c_proj",
            num_heads="num_heads",
            head_dim="head_dim",
            width="split_size",
        ),
        feed_forward=FeedForwardParts(
            ffn_in="mlp.c_fc", activation="mlp.act", ffn_out="mlp.c_proj"
        ),
        norms_first=True,
        scales=None,
        neurons=NeuronSetting("n_inner", without=4),
        activation="activation_function",
        has_head_dim=False,
        # A layer would compute something else in the place of another.
        refused_with=("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
    ),
    int8_simulated=True,
)
