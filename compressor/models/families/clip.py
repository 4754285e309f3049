"""CLIP and SigLIP: a tower of ViT's layers under other names, for images and for texts.

A classifier of images is built of the whole pair's configuration, and has the tower of images
alone.
"""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import (
    AttentionParts,
    EncoderParts,
    Family,
    FeedForwardParts,
    NeuronSetting,
)

TOWER = EncoderParts(
    layers="encoder.layers",
    attention=AttentionParts(
        module="self_attn",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        output="self_attn.out_proj",
        num_heads="num_heads",
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
    has_head_dim=False,
)
_PAIR = replace(TOWER, layers="vision_model.encoder.layers", part="vision_config")
_POOLS = "the attention that pools its states"
CLIP_VISION = Family(TOWER, int8_simulated=True)
TEXT = Family(TOWER)  # whose int8 file was not compared with a simulation
CLIP = Family(_PAIR, int8_simulated=True)
SIGLIP_VISION = Family(replace(TOWER, as_wide_as_neurons=_POOLS), int8_simulated=True)
SIGLIP = Family(replace(_PAIR, as_wide_as_neurons=_POOLS), int8_simulated=True)
