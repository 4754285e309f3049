"""DistilBERT: BERT's layers under other names."""

from __future__ import annotations

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

DISTILBERT = Family(
    EncoderParts(
        layers="transformer.layer",
        attention=AttentionParts(
            module="attention",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            output="attention.out_lin",
            num_heads="n_heads",
            head_dim="attention_head_size",
            width="dim",
        ),
        feed_forward=FeedForwardParts(
            ffn_in="ffn.lin1", activation="ffn.activation", ffn_out="ffn.lin2"
        ),
        norms_first=False,
        scales=None,
        neurons=NeuronSetting("hidden_dim"),
        activation="activation",
        has_head_dim=False,
    ),
    int8_simulated=True,
)
