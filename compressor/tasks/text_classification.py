"""Text classification: one sentence or a pair of sentences in, one label out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from compressor.tasks.classification import Classification
from compressor.tasks.columns import Columns, TextColumns
from compressor.tasks.cross_encoder import CrossEncoderTask
from compressor.tasks.head import ConfigFile, has_label_set
from compressor.tasks.report_words import TOKENS_CODE, ReportWords

_CODE = f"""\
{TOKENS_CODE}\
[logits] = session.run(["logits"], inputs)
labels = {{labels}}
print([labels[index] for index in logits.argmax(axis=-1)])
"""


class TextClassification(CrossEncoderTask, Classification):
    """A pair of texts is one example, whose two parts the model reads together."""

    name: ClassVar[str] = "text-classification"
    keeps_tokens: ClassVar[bool] = True
    head: ClassVar[str] = "ForSequenceClassification"
    words: ClassVar[ReportWords] = ReportWords(code=_CODE)
    scoring: ClassVar[str | None] = "text-scoring"

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether one label is chosen of several."""
        return not has_label_set(config) and super().is_for(config)

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return texts or pairs of texts, and class ids."""
        return TextColumns()

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification
