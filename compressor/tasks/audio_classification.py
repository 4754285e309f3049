"""Audio classification: one sound in, one label out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.paths import require_plain_files
from compressor.tasks.base import Batch
from compressor.tasks.classification import Classification
from compressor.tasks.columns import Columns, SoundColumns
from compressor.tasks.examples import Example, length_of
from compressor.tasks.given import from_base64, given_sounds
from compressor.tasks.head import ConfigFile
from compressor.tasks.pooling import read_config
from compressor.tasks.report_words import ReportWords
from compressor.tasks.sound import Sound, StoredSound, read_wav
from compressor.words import counted

_CODE = """\
import wave

import numpy as np
import onnxruntime
from transformers import AutoFeatureExtractor

extractor = AutoFeatureExtractor.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx", providers=[{provider}])
with wave.open("sound.wav") as stream:  # one channel of 16 bits, at the extractor's rate
    samples = np.frombuffer(stream.readframes(stream.getnframes()), "<i2") / np.float32(2**15)
batch = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
names = {{node.name for node in session.get_inputs()}}
if "attention_mask" in names:
    batch["attention_mask"] = np.ones(batch["input_values"].shape, np.int64)
[logits] = session.run(["logits"], {{name: batch[name] for name in names}})
labels = {labels}
print([labels[index] for index in logits.argmax(axis=-1)])
"""
_FILES = ("preprocessor_config.json", "processor_config.json")
# Model types whose graphs were compared with transformers, and whether they read samples as they
# are, of any number; the others read a spectrogram of one size.
_READS_SAMPLES: Mapping[str, bool] = {
    "audio-spectrogram-transformer": False,
    "hubert": True,
    "wav2vec2": True,
    "wavlm": True,
    "whisper": False,
}
_WINDOW_SECONDS = 0.025  # of a frame of the spectrogram that AST reads; Whisper pads sounds first
_EXAMPLE = "the example"  # where a sound comes from that nobody gave
_TRACED = 800  # samples of an example that is traced, for each of its tokens


class AudioClassification(Classification):
    """Sounds become samples or spectrograms as the checkpoint's feature extractor says.

    `max_length` is how many samples of a sound are read; a model whose outputs depend on padding
    reads all sounds at that length.
    """

    name: ClassVar[str] = "audio-classification"
    head: ClassVar[str] = "ForAudioClassification"
    other_heads: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    input_column: ClassVar[str] = "audio"
    main_input: ClassVar[str] = "input_values"
    other_inputs: ClassVar[tuple[str, ...]] = ("input_features",)
    preprocessor_name: ClassVar[str] = "feature extractor"
    reads_tokens: ClassVar[bool] = False
    explains: ClassVar[str] = ""
    unexplained: ClassVar[str] = "parts of a sound are not hidden; tokens and patches of images are"
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        inputs="Inputs as the feature extractor names them (`input_values` or `input_features`), "
        "float32, with `attention_mask`, int64, where the graph has it.",
    )

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether config.json is of a model type that was compared with transformers."""
        return config.get("model_type") in _READS_SAMPLES

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return sounds, and class ids."""
        return SoundColumns()

    def auto_class(self, directory: Path) -> Any:
        """Return transformers' own; raises `EnvironmentMismatch` for other model types."""
        from transformers import AutoModelForAudioClassification

        kind = read_config(directory).get("model_type")
        if kind not in _READS_SAMPLES:
            raise EnvironmentMismatch(
                f"{directory / 'config.json'}: graphs of model type '{kind}' were not compared "
                f"with transformers; known are {', '.join(_READS_SAMPLES)}"
            )
        return AutoModelForAudioClassification

    @classmethod
    def require_files(cls, directory: Path) -> None:
        """Raise `OSError` when there is no file that describes a feature extractor."""
        require_plain_files(directory)
        if not any((directory / name).is_file() for name in _FILES):
            raise FileNotFoundError(f"none of {', '.join(_FILES)} lies in {directory}")

    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the feature extractor; raises `OSError` when its file is missing."""
        from transformers import AutoFeatureExtractor

        self.require_files(Path(directory))
        load: Any = AutoFeatureExtractor.from_pretrained  # transformers leaves it untyped
        extractor = load(directory, trust_remote_code=False)
        return SoundReader.of(extractor, read_config(Path(directory)))

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return sounds: arrays of samples in -1..1 at the model's rate."""
        return given_sounds(value)

    def received(self, value: Any, place: str) -> Any:
        """Return the sound of a WAV file in base64."""
        return read_wav(from_base64(value, place), place)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Return `input_values` or `input_features`, float32, and a mask where the model reads it.

        Raises `RecipeError` for a sound at another rate or too short to be read, and where a model
        whose outputs depend on padding is not given a length.
        """
        reader: SoundReader = preprocessor
        return reader.batch([_sound(item) for item in examples], self.max_length)

    def needed_length(self, preprocessor: Any, examples: Iterable[Example]) -> int | None:
        """Return the samples of the longest sound, for a model that takes padding in."""
        reader: SoundReader = preprocessor
        if reader.is_masked or not reader.reads_samples:
            return None
        return max(map(length_of, examples))

    def benchmark_batch(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        batch_size: int,
        sequence_length: int | None,  # noqa: ARG002 - sounds have none that is asked for
    ) -> Batch:
        """Return the first sounds, again from the start when there are too few."""
        return self.encode(preprocessor, list(islice(cycle(examples), batch_size)))

    def free_axes(self, ndim: int) -> tuple[int, ...]:
        """Return the axes of any size: the batch, and samples where they are read as they are."""
        return (0, 1) if ndim == 2 else (0,)

    def dummy_example(self, length: int) -> Example:
        """Return a rising tone that grows with `length`."""
        places = np.arange(_TRACED * max(1, length), dtype=np.float32)
        return Sound(np.sin(places * places * 1e-5).astype(np.float32) / 2, None, _EXAMPLE)


@dataclass(frozen=True)
class SoundReader:
    """A feature extractor of transformers, with what its model needs of sounds.

    `shortest` is the fewest samples that give one frame. `is_masked` says that a model of samples
    reads a mask, and that what it computes is the same however far a sound is padded.
    """

    extractor: Any
    reads_samples: bool
    is_masked: bool
    shortest: int

    @classmethod
    def of(cls, extractor: Any, config: ConfigFile) -> SoundReader:
        """Return the reader for a model by its config.json."""
        reads_samples = _READS_SAMPLES.get(str(config.get("model_type")), True)
        # A norm over the whole of a sound takes its padding in, whatever the mask says.
        is_masked = reads_samples and config.get("feat_extract_norm", "group") == "layer"
        shortest = _shortest(config) if reads_samples else 1
        if config.get("model_type") == "audio-spectrogram-transformer":
            shortest = int(_WINDOW_SECONDS * extractor.sampling_rate)
        return cls(extractor, reads_samples, is_masked, shortest)

    @property
    def kind(self) -> str:
        """Return the class of the feature extractor."""
        return type(self.extractor).__name__

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the feature extractor's settings."""
        self.extractor.save_pretrained(directory)

    def batch(self, sounds: Sequence[Sound], max_length: int | None) -> Batch:
        """Return what a model reads of sounds; raises as `AudioClassification.encode`."""
        rate = int(self.extractor.sampling_rate)
        for sound in sounds:
            self._require(sound, rate)
        arrays = [sound.samples[:max_length] for sound in sounds]
        options: dict[str, Any] = {"sampling_rate": rate, "return_tensors": "np"}
        if not self.reads_samples:
            found = self.extractor(arrays, **options)
            return {
                name: np.asarray(value, np.float32)
                for name, value in found.items()
                if name != "attention_mask"
            }
        is_example = all(sound.place == _EXAMPLE for sound in sounds)  # all of one length
        if not self.is_masked and max_length is None and is_example:
            max_length = len(arrays[0])
        if not self.is_masked and max_length is None:
            raise RecipeError(
                "export.max_length: the model normalises over the whole of a sound "
                "(feat_extract_norm is group in config.json), so a prediction depends on how far a "
                "sound is padded; set how many samples every sound is cut or padded to, such as "
                f"{rate} for one second"
            )
        padding = "longest" if self.is_masked else "max_length"
        limit = {} if self.is_masked else {"max_length": max_length}
        found = self.extractor(
            arrays, padding=padding, return_attention_mask=True, **limit, **options
        )
        values = {"input_values": np.asarray(found["input_values"], np.float32)}
        if self.is_masked:
            values["attention_mask"] = np.asarray(found["attention_mask"], np.int64)
        return values

    def _require(self, sound: Sound, rate: int) -> None:
        if sound.rate not in (None, rate):
            raise RecipeError(
                f"{sound.place}: the sound has {sound.rate:,} samples a second, and the model "
                f"reads {rate:,}; convert it, for instance with ffmpeg -i IN -ar {rate} OUT.wav"
            )
        if len(sound) < self.shortest:
            raise RecipeError(
                f"{sound.place}: the sound has {counted(len(sound), 'sample')}, and the model "
                f"needs {self.shortest:,} for a first frame; leave such sounds out"
            )


def _shortest(config: ConfigFile) -> int:
    """Return how many samples the convolutions before an encoder need for one frame."""
    kernels = config.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))
    strides = config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * int(stride) + int(kernel)
    return samples


def _sound(example: Example) -> Sound:
    if isinstance(example, StoredSound):
        return example.read()
    assert isinstance(example, Sound), "the task reads nothing else"
    return example
