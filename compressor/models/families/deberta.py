"""DeBERTa: BERT whose queries and keys meet projections of relative positions, head by head."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family, FixedHeads, RelativePositions
from compressor.models.families.bert import PARTS

_V2 = replace(
    PARTS.attention,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    # Where share_att_key is set there are none: query and key project the positions as well.
    beside=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    relative=RelativePositions(kinds="pos_att_type", span="pos_ebd_size"),
)
_V1 = replace(
    PARTS.attention,
    query="attention.self.in_proj",
    key="attention.self.in_proj",
    value="attention.self.in_proj",
    packed_by="head",
    beside=(
        "attention.self.q_bias",
        "attention.self.v_bias",
        "attention.self.pos_proj",
        "attention.self.pos_q_proj",
    ),
    relative=RelativePositions(
        kinds="pos_att_type", span="max_relative_positions", at_most_length=True
    ),
)
DEBERTA_V2 = Family(
    replace(
        PARTS,
        attention=_V2,
        after_first_layer="encoder.conv",
        first_layer_stays="a convolution joins the embeddings with what it gives",
        first_layer_stays_with="conv_kernel_size",
    ),
    int8_simulated=True,
)
DEBERTA = Family(
    replace(
        PARTS,
        attention=_V1,
        fixed_heads=FixedHeads(
            "talking_head", reason="its heads are mixed with each other (talking_head)"
        ),
    ),
    int8_simulated=True,
)
