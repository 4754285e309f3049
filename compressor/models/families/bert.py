"""BERT, and what differs from it in a setting only."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

PARTS = EncoderParts(
    layers="encoder.layer",
    attention=AttentionParts(
        module="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        num_heads="num_attention_heads",
        head_dim="attention_head_size",
        width="all_head_size",
    ),
    feed_forward=FeedForwardParts(
        ffn_in="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        ffn_out="output.dense",
    ),
    norms_first=False,
    scales=None,
    neurons=NeuronSetting("intermediate_size"),
    activation="hidden_act",
    has_head_dim=False,
)
BERT = Family(PARTS, int8_simulated=True)
# Of RemBERT the int8 file computes other outputs than its simulation does; BertGeneration and
# Splinter, which have no classifier, were not compared.
NOT_SIMULATED = Family(PARTS)
# Positions are counted from the id of the padding on.
ROBERTA = replace(BERT, first_position="after_padding")
