"""Audio features: one sound in, one vector out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.tasks.audio_vectors import (
    KEY,
    OF_DECODER,
    read_vector,
    reads_sounds,
    require_frames,
)
from compressor.tasks.columns import Columns, UnlabelledSoundColumns
from compressor.tasks.examples import Example
from compressor.tasks.feature_vector import FeatureVector
from compressor.tasks.features import NEIGHBOUR_AGREEMENT, FeatureTask
from compressor.tasks.head import ConfigFile, HasShape
from compressor.tasks.metrics import Metric
from compressor.tasks.report_words import ReportWords
from compressor.tasks.sound import loudness
from compressor.tasks.sound_task import (
    SOUND_CODE,
    SOUND_WORDS,
    SoundTask,
    require_known,
    sound_of,
)
from compressor.tasks.vectors import BYTES_CODE, SIMILARITIES_CODE, cosine_metrics

AUDIO_COSINE, AUDIO_COSINE_P5 = cosine_metrics("audio_cosine", "sound")
_CODE = f"""\
{SOUND_CODE}\
[vectors] = session.run(["audio_embeds"], {{{{name: batch[name] for name in nodes}}}})
{SIMILARITIES_CODE}"""
_BYTES_CODE = f"""\
{SOUND_CODE}\
[codes] = session.run(["audio_embeds"], {{{{name: batch[name] for name in nodes}}}})
{BYTES_CODE}"""


@dataclass(frozen=True)
class AudioFeatures(SoundTask, FeatureTask):
    """Vectors of an encoder of sound."""

    name: ClassVar[str] = "audio-features"
    noun: ClassVar[str] = "sound"
    key: ClassVar[str] = KEY
    cosine_of: ClassVar[tuple[Metric, Metric]] = (AUDIO_COSINE, AUDIO_COSINE_P5)
    only_compares: ClassVar[str] = "how long sounds are, and where they are loud"
    output: ClassVar[str] = "audio_embeds"  # as transformers' ClapAudioModelWithProjection
    metrics: ClassVar[tuple[Metric, ...]] = (AUDIO_COSINE, AUDIO_COSINE_P5, NEIGHBOUR_AGREEMENT)
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        inputs=SOUND_WORDS,
        code_of_bytes=_BYTES_CODE,
        hub_task="feature-extraction",
        row="sound",
        predictions_title="Nearest sounds",
        predictions_shown="search sounds whose nearest other search sound the original finds "
        "nearest",
        score="cosine similarity",
        flips_title="Sounds with another nearest neighbour",
        another="another nearest sound",
        changed=(
            "sound",
            "has another nearest neighbour among the other sounds",
            "have another nearest neighbour among the other sounds",
        ),
        flips_order="Those come first whose vector moved most: 1 minus its cosine similarity.",
        flips_header=" nearest sound",
        flips_sure="and its cosine similarity",
        flips_moved=True,
    )

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether config.json is of an encoder of sound."""
        return reads_sounds(config)

    @classmethod
    def is_of_another_part(cls, key: str) -> bool:
        """Return whether a key of the weights is of Whisper's decoder."""
        return OF_DECODER.match(key) is not None

    @classmethod
    def check_head(
        cls,
        config: ConfigFile,
        tensors: Mapping[str, HasShape],
        about: ConfigFile | None,  # noqa: ARG003 - of encoders of texts
    ) -> None:
        """Raise `HeadProblem` for vectors of speakers, and for an adapter after the encoder."""
        require_frames(config, tuple(tensors))

    def auto_class(self, directory: Path) -> Any:
        """Return what makes vectors around a plain encoder, as checkpoint or recipe say."""
        from compressor.tasks.audio_encoder import AutoAudioEncoder

        require_known(directory)
        return AutoAudioEncoder(self.vector(directory))

    def vector(self, directory: Path) -> FeatureVector:
        """Return how vectors are made, by the files in `directory`, else by the recipe."""
        return read_vector(directory, mode=self.pooling, normalize=self.normalize)

    def vector_width(self, config: Any) -> int:
        """Return how many numbers a vector has."""
        from compressor.tasks.audio_encoder import audio_width

        return audio_width(config)

    def saved_module(self, module: Any) -> Any:
        """Return the plain encoder."""
        return module.base_model

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return sounds alone."""
        return UnlabelledSoundColumns()

    def outlines(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return how long sounds are, and how loud in each part."""
        return loudness(sound_of(example).samples for example in examples)
