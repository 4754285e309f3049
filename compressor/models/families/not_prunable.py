"""Families whose heads, neurons and layers cannot go, and what else is known of them."""

from __future__ import annotations

from compressor.models.families.base import Family

UNKNOWN = Family("where its heads and neurons sit is not known")
CONVBERT = Family(UNKNOWN.encoder, int8_simulated=True)
BIG_BIRD = Family(UNKNOWN.encoder, is_block_sparse=True)
FNET = Family(UNKNOWN.encoder, takes_mask=False)
# Positions as RoBERTa's, and layers of their own: adapters, windows of attention.
AFTER_PADDING = Family(UNKNOWN.encoder, first_position="after_padding")
