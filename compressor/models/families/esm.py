"""ESM: BERT for proteins, with its norms first and a GELU that is a function."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family
from compressor.models.families.bert import PARTS

ESM = Family(
    replace(
        PARTS,
        feed_forward=replace(PARTS.feed_forward, activation=None),
        norms_first=True,
        activation=None,
        reads_every_head="contact_head.regression",
    ),
    first_position="after_padding",
    int8_simulated=True,
    position_types=("rotary",),
)
