"""DINOv2: ViT with scaled sub-layers, whose neurons are a multiple of the hidden size."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, NeuronSetting
from compressor.models.families.vit import PARTS

DINOV2 = Family(
    replace(
        PARTS,
        layers="encoder.layer",
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        neurons=NeuronSetting("mlp_ratio", is_ratio=True),
        gated_by="use_swiglu_ffn",
    ),
    int8_simulated=True,
)
