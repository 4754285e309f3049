"""Image classification: one image in, one label out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from compressor.tasks.base import Ability
from compressor.tasks.classification import Classification
from compressor.tasks.image_task import PIXELS_CODE, PIXELS_WORDS, ImageTask
from compressor.tasks.report_words import ReportWords

_CODE = f"""\
{PIXELS_CODE}\
[logits] = session.run(["logits"], {{{{node.name: pixels}}}})
labels = {{labels}}
print([labels[index] for index in logits.argmax(axis=-1)])
"""


class ImageClassification(Classification, ImageTask):
    """One label for each image."""

    name: ClassVar[str] = "image-classification"
    head: ClassVar[str] = "ForImageClassification"
    abilities: ClassVar[frozenset[Ability]] = Classification.abilities | {"pixels"}
    words: ClassVar[ReportWords] = ReportWords(code=_CODE, inputs=PIXELS_WORDS, packages="pillow")

    def auto_class(self, directory: Path) -> Any:  # noqa: ARG002 - config.json says it all
        """Return transformers' own."""
        from transformers import AutoModelForImageClassification

        return AutoModelForImageClassification
