"""DINOv3: DINOv2's scaled sub-layers, with queries and keys that are rotated by their position.

Its neurons are a setting of their own, and the largest ones gate their feed-forward network.
"""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, FeedForwardParts
from compressor.models.families.vit import PARTS

_MLP = FeedForwardParts(ffn_in="mlp.up_proj", activation="mlp.act_fn", ffn_out="mlp.down_proj")

DINOV3 = Family(
    replace(
        PARTS,
        layers="model.layer",
        attention=replace(PARTS.attention, num_heads="num_heads"),
        feed_forward=_MLP,
        gated_feed_forward=replace(_MLP, ffn_in="mlp.gate_proj", gate="mlp.up_proj"),
        gated_by="use_gated_mlp",
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        has_head_dim=False,
        rotates=True,
    ),
    int8_simulated=True,
)
