"""ALBERT: one set of weights that is run as often as there are layers.

A head or neuron goes from all layers at once, and is scored by what it does in all of them.
"""

from __future__ import annotations

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

ALBERT = Family(
    EncoderParts(
        layers="encoder.albert_layer_groups.0.albert_layers",
        attention=AttentionParts(
            module="attention",
            query="attention.query",
            key="attention.key",
            value="attention.value",
            output="attention.dense",
            num_heads="num_attention_heads",
            head_dim="attention_head_size",
            width="all_head_size",
        ),
        feed_forward=FeedForwardParts(ffn_in="ffn", activation="activation", ffn_out="ffn_output"),
        norms_first=False,
        scales=None,
        neurons=NeuronSetting("intermediate_size"),
        activation="hidden_act",
        has_head_dim=False,
        repeated="inner_group_num",
    ),
    int8_simulated=True,
    shares_layers=True,
)
