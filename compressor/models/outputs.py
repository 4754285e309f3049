"""What a PyTorch module of any task gives, read in one place."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def answers_of(outputs: Any) -> Tensor:
    """Return the logits `(batch, num_labels)`, or the vectors `(batch, width)`, of a module."""
    found: Tensor = outputs.sentence_embedding if gives_vectors(outputs) else outputs.logits
    return found


def gives_vectors(outputs: Any) -> bool:
    """Return whether these are the outputs of a sentence encoder."""
    return getattr(outputs, "sentence_embedding", None) is not None
