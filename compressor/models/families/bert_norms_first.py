"""BERT with its norms before the sub-layers, and one more after the last layer."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family
from compressor.models.families.bert import PARTS

_PARTS = replace(PARTS, norms_first=True)
MEGATRON_BERT = Family(_PARTS)
XLM_ROBERTA_XL = Family(_PARTS, first_position="after_padding")
ROBERTA_NORMS_FIRST = replace(XLM_ROBERTA_XL, int8_simulated=True)
