"""T5's encoder: relative positions whose bias the first layer computes and each hands to the next.

A layer without some of its heads picks those it has from that bias, which stays whole. Version 1.1
and what was made of it gate the feed-forward network. Where a class holds the decoder too, nothing
goes: one configuration says how wide both are.
"""

from __future__ import annotations

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

_ATTENTION, _DENSE = "layer.0.SelfAttention", "layer.1.DenseReluDense"

T5 = Family(
    EncoderParts(
        layers="encoder.block",
        attention=AttentionParts(
            module=_ATTENTION,
            query=f"{_ATTENTION}.q",
            key=f"{_ATTENTION}.k",
            value=f"{_ATTENTION}.v",
            output=f"{_ATTENTION}.o",
            num_heads="n_heads",
            head_dim="key_value_proj_dim",
            width="inner_dim",
        ),
        feed_forward=FeedForwardParts(
            ffn_in=f"{_DENSE}.wi", activation=f"{_DENSE}.act", ffn_out=f"{_DENSE}.wo"
        ),
        gated_feed_forward=FeedForwardParts(
            ffn_in=f"{_DENSE}.wi_0",
            activation=f"{_DENSE}.act",
            ffn_out=f"{_DENSE}.wo",
            gate=f"{_DENSE}.wi_1",
        ),
        gated_by="feed_forward_proj",
        norms_first=True,
        scales=None,
        neurons=NeuronSetting("d_ff"),
        activation="dense_act_fn",
        has_head_dim=True,
        bias_place=2,
        first_layer_stays="it computes the bias of relative positions for all others",
        classes_with_decoder=("ForConditionalGeneration", "ForSequenceClassification"),
    ),
    int8_simulated=True,
)
