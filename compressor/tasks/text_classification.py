"""Text classification: one sentence or a pair of sentences in, one label out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from compressor.tasks.classification import Classification
from compressor.tasks.columns import Columns, TextColumns
from compressor.tasks.text import TextTask


class TextClassification(TextTask, Classification):
    """A pair of texts is one example, whose two parts the model reads together."""

    name: ClassVar[str] = "text-classification"
    head: ClassVar[str] = "ForSequenceClassification"

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return texts or pairs of texts, and class ids."""
        return TextColumns()

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification
