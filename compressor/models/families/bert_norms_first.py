"""BERT with its norms before the sub-layers, and one more after the last layer."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family
from compressor.models.families.bert import PARTS

_PARTS = replace(PARTS, norms_first=True)
MEGATRON_BERT = Family(_PARTS, int8_simulated=True)
XLM_ROBERTA_XL = Family(_PARTS, first_position="after_padding", int8_simulated=True)
ROBERTA_NORMS_FIRST = XLM_ROBERTA_XL
# Adapters for languages stand behind the feed-forward network, and lose nothing.
XMOD = Family(
    replace(PARTS, norms_first_if="pre_norm"), first_position="after_padding", int8_simulated=True
)
