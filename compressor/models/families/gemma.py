"""Gemma: Llama whose heads have a size of their own; from the second on the outputs have norms."""

from __future__ import annotations

from dataclasses import replace

from compressor.models.families.base import Family
from compressor.models.families.llama import PARTS

_PARTS = replace(PARTS, activation="hidden_activation")
GEMMA = Family(_PARTS, int8_simulated=True)
GEMMA_2 = Family(replace(_PARTS, normalizes_outputs=True), int8_simulated=True)
