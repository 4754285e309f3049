"""Audio classification: one sound in, one label out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from compressor.tasks.classification import Classification
from compressor.tasks.report_words import ReportWords
from compressor.tasks.sound_task import SOUND_CODE, SOUND_WORDS, SoundTask, require_known

_CODE = f"""\
{SOUND_CODE}\
[logits] = session.run(["logits"], {{{{name: batch[name] for name in nodes}}}})
labels = {{labels}}
print([labels[index] for index in logits.argmax(axis=-1)])
"""


class AudioClassification(SoundTask, Classification):
    """One label for each sound."""

    name: ClassVar[str] = "audio-classification"
    head: ClassVar[str] = "ForAudioClassification"
    other_heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    words: ClassVar[ReportWords] = ReportWords(code=_CODE, inputs=SOUND_WORDS)

    def auto_class(self, directory: Path) -> Any:
        """Return transformers' own; raises `EnvironmentMismatch` for other model types."""
        from transformers import AutoModelForAudioClassification

        require_known(directory)
        return AutoModelForAudioClassification
