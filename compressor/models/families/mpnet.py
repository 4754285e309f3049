"""MPNet: BERT with relative positions, whose biases are computed once for all layers."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, SharedBias
from compressor.models.families.bert import PARTS

MPNET = Family(
    replace(
        PARTS,
        attention=replace(
            PARTS.attention,
            module="attention.attn",
            query="attention.attn.q",
            key="attention.attn.k",
            value="attention.attn.v",
            output="attention.attn.o",
        ),
        shared_bias=SharedBias("position_bias", place=2),
    ),
    first_position=2,  # its class has 1 for the padding, whatever the configuration says
    int8_simulated=True,
)
