"""The first output tensor of a PyTorch module, whatever its task is."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def first_output(outputs: Any) -> Tensor:
    """Return what a module gives first, such as logits; all it gives comes from the same layers."""
    found: Tensor = outputs[0]
    return found
