"""BEiT: ViT with scaled sub-layers, and with relative positions where its settings say so."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, HeadBias
from compressor.models.families.vit import PARTS

BEIT = Family(
    replace(
        PARTS,
        scales=("lambda_1", "lambda_2"),
        head_bias=HeadBias(
            "relative_position_bias",
            asked_by=("use_relative_position_bias", "use_shared_relative_position_bias"),
        ),
    ),
    int8_simulated=True,
)
