"""BEiT: ViT with scaled sub-layers, and with relative positions where its settings say so."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, SharedBias
from compressor.models.families.vit import PARTS

BEIT = Family(
    replace(
        PARTS,
        scales=("lambda_1", "lambda_2"),
        attention=replace(
            PARTS.attention, columns=("relative_position_bias.relative_position_bias_table",)
        ),
        shared_bias=SharedBias(
            "attention_mask", place=1, asked_by="use_shared_relative_position_bias"
        ),
    ),
    int8_simulated=True,
)
