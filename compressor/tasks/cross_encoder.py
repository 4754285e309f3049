"""What sentence-transformers' CrossEncoder adds to a transformers model with a head over texts.

Its `modules.json` names one step, the transformer, whose file says how many tokens are read. A
folder of several steps is an encoder of vectors, and says nothing of a head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from compressor.tasks.pooling import read_steps
from compressor.tasks.text import TextTask
from compressor.tasks.transformer_step import longest_read, require_case, require_plain_reading

STEPS = ["Transformer"]


class CrossEncoderTask(TextTask):
    """Texts are read as CrossEncoder reads them, where it saved the checkpoint."""

    def as_saved(self, directory: Path) -> Self:
        """Return the task.

        Raises `EnvironmentMismatch` where CrossEncoder reads texts in a way that is not followed.
        """
        if _is_cross_encoder(directory):
            require_plain_reading(directory, "scores")
        return super().as_saved(directory)

    def tokens_read(self, directory: Path) -> int | None:
        """Return how many tokens CrossEncoder reads at most, where it says so."""
        return longest_read(directory) if _is_cross_encoder(directory) else None

    def fit_preprocessor(self, name: str, directory: Path, preprocessor: Any) -> None:
        """Raise where a tokenizer cannot read what CrossEncoder would."""
        super().fit_preprocessor(name, directory, preprocessor)
        if _is_cross_encoder(directory):
            require_case(name, directory, preprocessor)


def _is_cross_encoder(directory: Path) -> bool:
    return read_steps(directory) == STEPS
