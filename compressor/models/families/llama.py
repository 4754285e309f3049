"""Llama and its like: causal, gated, and several query heads share a key and a value.

What goes is such a group: its query heads with their key and value head.
"""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family
from compressor.models.families.rotary import GATED

PARTS = replace(GATED, norms_first=True, has_head_dim=False, key_heads="num_key_value_heads")
LLAMA = Family(PARTS, int8_simulated=True)
