"""What turns examples into a model's inputs, as far as anything but its task knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Preprocessor(Protocol):
    """A tokenizer or an image processor of transformers; the task alone looks inside."""

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write the files that it is loaded from."""
