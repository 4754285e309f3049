"""Encoders of sound: convolutions in front, and then BERT's or ViT's layers under other names."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, FeedForwardParts, NeuronSetting
from compressor.models.families.clip import TOWER
from compressor.models.families.vit import PARTS as VIT_PARTS

_SUM = "use_weighted_layer_sum"

# Wav2Vec2, HuBERT and what transformers copied from them: a setting says where norms are.
_WAV2VEC2 = replace(
    TOWER,
    attention=replace(
        TOWER.attention,
        module="attention",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        output="attention.out_proj",
    ),
    feed_forward=FeedForwardParts(
        ffn_in="feed_forward.intermediate_dense",
        activation="feed_forward.intermediate_act_fn",
        ffn_out="feed_forward.output_dense",
    ),
    norms_first_if="do_stable_layer_norm",
    sums_layers=_SUM,
)
WAV2VEC2 = Family(_WAV2VEC2, int8_simulated=True)
WHISPER = Family(
    replace(
        TOWER,
        feed_forward=FeedForwardParts(ffn_in="fc1", activation="activation_fn", ffn_out="fc2"),
        neurons=NeuronSetting("encoder_ffn_dim"),
        activation="activation_function",
        sums_layers=_SUM,
    ),
    int8_simulated=True,
)
SPECTROGRAM_TRANSFORMER = Family(VIT_PARTS, int8_simulated=True)
