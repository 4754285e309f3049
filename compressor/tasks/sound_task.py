"""What every task on sounds shares: the feature extractor, and how sounds become its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.paths import require_plain_files
from compressor.runtime.sounds import READS_SAMPLES, SoundInputs, SoundProcessor, most_samples
from compressor.tasks.base import Batch, Task
from compressor.tasks.columns import Columns, SoundColumns
from compressor.tasks.examples import Example, length_of
from compressor.tasks.given import from_base64, given_sounds
from compressor.tasks.head import ConfigFile
from compressor.tasks.pooling import read_config
from compressor.tasks.sound import Sound, StoredSound, read_wav

# Plain onnxruntime for the model card, up to the inputs; a template like `TOKENS_CODE`.
SOUND_CODE = """\
import json
import wave
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoFeatureExtractor

extractor = AutoFeatureExtractor.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx", providers=[{provider}])
with wave.open("sound.wav") as stream:  # one channel of 16 bits, at the extractor's rate
    samples = np.frombuffer(stream.readframes(stream.getnframes()), "<i2") / np.float32(2**15)
longest = json.loads(Path("manifest.json").read_text(encoding="utf-8"))["max_length"]
nodes = {{node.name: node for node in session.get_inputs()}}
padding = {{}}
if [len(node.shape) for node in nodes.values()] == [2]:  # without a mask: all have one length
    padding = {{"padding": "max_length", "max_length": longest, "return_attention_mask": True}}
batch = extractor(
    samples[:longest], sampling_rate=extractor.sampling_rate, return_tensors="np", **padding
)
if "attention_mask" in nodes:
    batch["attention_mask"] = np.ones(batch["input_values"].shape, np.int64)
"""

SOUND_WORDS = (  # for `ReportWords.inputs`
    "Inputs as the feature extractor names them (`input_values` or `input_features`), float32, "
    "with `attention_mask`, int64, where the graph has it."
)

_FILES = ("preprocessor_config.json", "processor_config.json")
_EXAMPLE = "the example"  # where a sound comes from that nobody gave
_TRACED = 800  # samples of an example that is traced, for each of its tokens


class SoundTask(Task):
    """Sounds become samples or spectrograms as the checkpoint's feature extractor says.

    `max_length` is how many samples of a sound are read; a model whose outputs depend on padding
    reads all sounds at that length.
    """

    input_column: ClassVar[str] = "audio"
    main_input: ClassVar[str] = "input_values"
    other_inputs: ClassVar[tuple[str, ...]] = ("input_features",)
    preprocessor_name: ClassVar[str] = "feature extractor"
    reads_tokens: ClassVar[bool] = False
    # torch computes Whisper's spectrogram in float32, which is off by 1e-4 beside a pure tone.
    light_difference: ClassVar[float] = 2e-4
    explains: ClassVar[str] = ""
    explains_by_gradients: ClassVar[bool] = False
    unexplained: ClassVar[str] = "parts of a sound are not hidden; tokens and patches of images are"

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether config.json is of a model type that was compared with transformers."""
        return config.get("model_type") in READS_SAMPLES

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return sounds, and class ids."""
        return SoundColumns()

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
        reader = SoundReader.of(extractor, read_config(Path(directory)))
        if reader.inputs.is_masked:
            # transformers counts how many samples the mask has, and takes them for the first ones.
            extractor.padding_side = "right"
        return reader

    def light_preprocessor(self, directory: Path) -> Any:
        """Return a feature extractor by its settings alone; None for one that does more."""
        self.require_files(directory)
        if not SoundProcessor.is_plain(directory):
            return None
        return SoundReader.of(SoundProcessor.load(directory), read_config(directory))

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:  # noqa: ARG002
        """Return sounds: arrays of samples in -1..1 at the model's rate."""
        return given_sounds(value)

    def received(self, value: Any, place: str) -> Any:
        """Return the sound of a WAV file in base64."""
        return read_wav(from_base64(value, place), place)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Return `input_values` or `input_features`, float32, and a mask where the model reads it.

        Raises `RecipeError` for a sound at another rate or too short to be read, where sounds would
        be cut to less than a frame, and where a model whose outputs depend on padding is not given
        a length.
        """
        reader: SoundReader = preprocessor
        return reader.batch([sound_of(item) for item in examples], self.max_length)

    def require_readable(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        place: Callable[[int], str],  # noqa: ARG002 - a sound knows its row
    ) -> None:
        """Raise `RecipeError` for a sound at another rate than the model's, or without a frame."""
        reader: SoundReader = preprocessor
        reader.inputs.require_length(self.max_length)
        for example in examples:
            reader.require_heard(sound_of(example))

    def samples_read(self, preprocessor: Any) -> tuple[int | None, int] | None:
        """Return how many samples the checkpoint reads, and how many are with `max_length`."""
        reader: SoundReader = preprocessor
        limits = [item for item in (reader.most, self.max_length) if item is not None]
        return (reader.most, min(limits)) if limits else None

    def needed_length(self, preprocessor: Any, examples: Iterable[Example]) -> int | None:
        """Return the samples of the longest sound, for a model that takes padding in."""
        reader: SoundReader = preprocessor
        if not reader.inputs.needs_length:
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
    """A feature extractor, with what its model needs of sounds."""

    inputs: SoundInputs

    @classmethod
    def of(cls, extractor: Any, config: ConfigFile) -> SoundReader:
        """Return the reader for a model by its config.json."""
        return cls(SoundInputs.of(extractor, config))

    @property
    def kind(self) -> str:
        """Return the class of the feature extractor."""
        extractor = self.inputs.extractor
        return str(getattr(extractor, "kind", type(extractor).__name__))

    @property
    def most(self) -> int | None:
        """Return how many samples a spectrogram of one size is made of; None without one."""
        own = self.inputs.extractor
        settings = own.settings if isinstance(own, SoundProcessor) else own.to_dict()
        return most_samples(settings)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the feature extractor's settings."""
        self.inputs.extractor.save_pretrained(directory)

    def require_heard(self, sound: Sound) -> None:
        """Raise `RecipeError` for a sound at another rate, or too short to be read."""
        rate = int(self.inputs.extractor.sampling_rate)
        if sound.rate not in (None, rate):
            raise RecipeError(
                f"{sound.place}: the sound has {sound.rate:,} samples a second, and the model "
                f"reads {rate:,}; convert it, for instance with ffmpeg -i IN -ar {rate} OUT.wav"
            )
        self.inputs.require_frame(sound.samples, sound.place)

    def batch(self, sounds: Sequence[Sound], max_length: int | None) -> Batch:
        """Return what a model reads of sounds; raises as `SoundTask.encode`."""
        for sound in sounds:
            self.require_heard(sound)
        if (
            self.inputs.needs_length
            and max_length is None
            and all(item.place == _EXAMPLE for item in sounds)
        ):
            max_length = len(sounds[0])  # all of one length
        return self.inputs.batch([sound.samples for sound in sounds], max_length)


def require_known(directory: Path) -> None:
    """Raise `EnvironmentMismatch` for a model type that was not compared with transformers."""
    kind = read_config(directory).get("model_type")
    if kind not in READS_SAMPLES:
        raise EnvironmentMismatch(
            f"{directory / 'config.json'}: graphs of model type '{kind}' were not compared "
            f"with transformers; known are {', '.join(READS_SAMPLES)}"
        )


def sound_of(example: Example) -> Sound:
    """Return the samples of an example, read from their file where they lie in one."""
    if isinstance(example, StoredSound):
        return example.read()
    assert isinstance(example, Sound), "the task reads nothing else"
    return example
