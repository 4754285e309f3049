"""The artifact: a directory that needs nothing but ONNX Runtime and its own files.

`manifest.json` names every file with its SHA-256, so that a damaged or mixed-up artifact is refused
when it is loaded; so is a file beside them that would be read and is not named. Nothing here
imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from compressor.files import sha256, write_whole
from compressor.models.guard import foreign
from compressor.models.onnx_model import OnnxModel
from compressor.models.predict import predict_rows, rows_at_a_time
from compressor.models.provider_options import ProviderSettings
from compressor.models.runtime_versions import require_runtime
from compressor.models.text_files import keep_settings_apart
from compressor.onnx_graph.onnx_file import data_files, load_graph
from compressor.runtime.lengths import by_length
from compressor.runtime.manifest import (
    AGAIN,
    MANIFEST_VERSION,
    NEEDS_TRANSFORMERS,
    OWN_DIGEST,
    digest_of,
    reads_pairs,
    verify_files,
)
from compressor.runtime.manifest import MANIFEST as MANIFEST
from compressor.runtime.manifest import MODEL as MODEL
from compressor.runtime.manifest import read_manifest as manifest_of
from compressor.runtime.session import opening_of
from compressor.tasks import Example, Outputs, Rows, Task, load_task, task_names, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What transformers.js puts after `model`, by the type of most weights.
_SUFFIXES: Mapping[int, tuple[str, ...]] = {
    TensorProto.INT8: ("_quantized",),
    TensorProto.INT4: ("_quantized",),
    TensorProto.UINT8: ("_quantized",),
    TensorProto.FLOAT16: ("_fp16",),
}


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact; call it with a list of texts, pairs of texts, or images.

    Texts are read in batches of similar length, `batch_size` together. Threads may call it at the
    same time.
    """

    directory: Path
    manifest: Mapping[str, Any]
    model: OnnxModel
    preprocessor: Any
    task: Task
    # A tokenizer is told how to cut and pad before it reads, so one thread at a time may use it.
    _reading: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def __call__(
        self,
        examples: Sequence[Example],
        *,
        prompt_name: str | None = None,
        aggregation: str | None = None,
        batch_size: int = 32,
    ) -> Any:
        """Return the task's predictions, one for each example.

        A classifier's are a list of `{"label", "label_id", "score"}`, an encoder's an array of
        vectors, float32 of shape `(num_examples, width)`, or int8 or bits where a pass made them
        so, as the manifest's `output` says. Of token classification, whose examples
        are texts or lists of words, they are a list of spans for each: `{"entity_group", "score",
        "word", "start", "end"}`. Scores are an array of `(num_examples,)`. Of question answering,
        whose examples are `{"question", "context"}` or pairs of both, they are a list of the best
        answers to each: `{"answer", "start", "end", "score"}`, "" for no answer.

        `prompt_name` says which of a sentence encoder's prompts stands before every text, such as
        `query`; left out, the checkpoint's default, if it has one. `aggregation` says how tokens
        become spans, as the pipeline of transformers does: `none`, `simple`, `first` (the default,
        which scores are taken with), `average` or `max`.

        Raises `ValueError` for a prompt that there is not, for anything that is no list of what the
        model reads, for an `aggregation` of another task, and for a `batch_size` below 1.
        """
        task = self.task if aggregation is None else self.task.aggregated(aggregation)
        outputs = self._outputs(examples, batch_size=batch_size, prompt_name=prompt_name)
        return task.predictions(outputs, self.manifest["labels"])

    def outputs(self, examples: Sequence[Example], *, batch_size: int = 32) -> Rows:
        """Return what the graph gives for each example, such as `(num_examples, num_labels)`.

        Raises `ValueError` for anything that is no list of what the model reads.
        """
        return self._outputs(examples, batch_size=batch_size).per_example()

    def _outputs(
        self, examples: Sequence[Example], *, batch_size: int, prompt_name: str | None = None
    ) -> Outputs:
        given = self.given(examples)
        # Tokens are not counted yet; characters put as much together.
        order = by_length([sum(map(len, texts_of(item))) for item in given], batch_size)
        with self._reading:
            if prompt_name is not None:
                given = self.task.prompted(self.preprocessor, given, prompt_name)
            batches = [
                self.task.encode(self.preprocessor, [given[place] for place in places])
                for places in order
            ]
        outputs = self.task.predicted(
            lambda part: predict_rows(self.model, part, rows_at_a_time(part, batch_size)), batches
        )
        return outputs.select(np.argsort(np.concatenate(order)))

    def given(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return examples as the task reads them; raises `ValueError` for any that will not do."""
        return self.task.given(examples, pairs=reads_pairs(self.manifest))

    def lengths(
        self, examples: Sequence[Example], *, prompt_name: str | None = None
    ) -> NDArray[np.int64]:
        """Return how many tokens the model reads of each of `given` examples, 0 of an image.

        Those of the prompt count. Raises `ValueError` for a prompt that there is not.
        """
        with self._reading:
            if prompt_name is not None:
                examples = self.task.prompted(self.preprocessor, examples, prompt_name)
            return self.task.lengths(self.preprocessor, examples)

    def logits(self, examples: Sequence[Example], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return the logits of a classifier, shape `(num_examples, num_labels)`."""
        return np.asarray(self.outputs(examples, batch_size=batch_size))


def write_artifact(
    directory: Path,
    *,
    model: OnnxModel,
    preprocessor: Any,
    config: PreTrainedConfig,
    max_length: int | None = None,
) -> OnnxModel:
    """Copy the graph and all that is needed to use it into `directory`, and return it from there.

    `max_length` is how many tokens of a text are read at most; None leaves what the tokenizer says.
    `config` is the transformers config of the checkpoint; `seal_artifact` completes the artifact.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.path, directory / MODEL)
    data = model.path.with_name(model.path.name + ".data")  # present above 2 GB
    if data.is_file():
        shutil.copyfile(data, directory / data.name)
    if max_length is not None:
        preprocessor.model_max_length = max_length
    keep_settings_apart(preprocessor)
    preprocessor.save_pretrained(directory)
    config.save_pretrained(directory)
    return dataclasses.replace(model, path=directory / MODEL)


def lay_out(directory: Path) -> None:
    """Let the graph in `directory` be found where programs of the Hub look for it.

    transformers.js asks for `onnx/model.onnx`, or by its type for `onnx/model_quantized.onnx` or
    `onnx/model_fp16.onnx`; sentence-transformers, which finds `model.onnx` in a folder, asks the
    Hub for `onnx/model.onnx`. They are links to the one file, which `cp -r`, tar and git keep as
    links; what does not know links, such as zip and the Hub, takes the file's content. A file
    system without links gets copies.
    """
    names = ["", *_SUFFIXES.get(_usual_type(directory / MODEL), ())]
    folder = directory / "onnx"
    folder.mkdir(exist_ok=True)
    for name in names:
        _link(directory / MODEL, folder / f"model{name}.onnx")
    data = directory / f"{MODEL}.data"
    if data.is_file():  # a graph names it
        _link(data, folder / data.name)


def _link(file: Path, place: Path) -> None:
    """Let `place`, in a folder beside `file`, be the same file."""
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(Path("..") / file.name)
    except OSError:
        shutil.copyfile(file, place)


def _usual_type(path: Path) -> int:
    """Return the type of element that most weights of a graph have."""
    sizes: Counter[int] = Counter()
    for tensor in load_graph(path, weights=False).graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    return sizes.most_common(1)[0][0] if sizes else TensorProto.FLOAT


def seal_artifact(
    directory: Path, *, task: Task, labels: Sequence[str], facts: Mapping[str, object]
) -> dict[str, object]:
    """Write `manifest.json` over the files in `directory` and return it.

    `facts` go into the manifest as they are. The same files and facts give the same bytes.
    """
    files = sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST
    )
    thresholds = task.label_thresholds(labels)
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "task": task.name,
        "labels": list(labels),
        "max_length": task.max_length,
        **({"thresholds": list(thresholds.values())} if thresholds else {}),
        **facts,
        "files": {path.relative_to(directory).as_posix(): sha256(path) for path in files},
    }
    manifest[OWN_DIGEST] = digest_of(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(directory / MANIFEST, text)
    return manifest


def load_artifact(
    directory: str | Path,
    *,
    provider: str | None = None,
    threads: int | None = None,
    streams: int = 1,
    verify: bool = True,
) -> Artifact:
    """Load an artifact after checking every file against the manifest.

    `provider` None is OpenVINO for an artifact that was made for it, and the CPU of ONNX Runtime
    for all others. OpenVINO computes `streams` batches at the same time, with `threads` each. An
    artifact that was made for a GPU computes its quantize-dequantize pairs on the CPU as they are
    written, in float.

    Without `verify` the files are taken as they are; the manifest is checked all the same.

    Raises `EnvironmentMismatch` when the manifest is damaged, when a file is missing, changed or
    there without being named, or `provider` is not there.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    if verify:
        verify_artifact(folder, manifest)
    require_runtime(folder, manifest)
    own = manifest.get("thresholds")
    task = load_task(
        manifest["task"],
        max_length=manifest["max_length"],
        thresholds=None if own is None else tuple(own),
    )
    task = task.for_labels(manifest["labels"]).as_saved(folder)
    how = opening_of(folder, manifest, provider)
    settings = ProviderSettings(as_written=how.as_written, precision=how.precision)
    model = OnnxModel(folder / MODEL, how.provider, threads, settings, streams)
    return Artifact(folder, manifest, model, _preprocessor(task, folder, manifest), task)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest; raises `EnvironmentMismatch` when it cannot be used."""
    return manifest_of(directory, task_names())


def verify_artifact(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `EnvironmentMismatch` naming the files that are not as the manifest says.

    A file that is not listed is refused where loading the artifact would read it.
    """
    verify_files(directory, manifest, data_files)


def needs_transformers(
    directory: Path, task: Task, preprocessor: Any, examples: Sequence[Example]
) -> dict[str, str]:
    """Return a fact for the manifest where transformers alone reads examples as the run did.

    A class of transformers may do more than its file says. `preprocessor` is what the run read
    with; `examples` are read with both.
    """
    light = task.light_preprocessor(directory)
    if light is None:
        return {}
    expected, found = (task.encode(tool, examples) for tool in (preprocessor, light))
    if all(
        name in found and _is_same(found[name], value, task.light_difference)
        for name, value in expected.items()
    ):
        return {}
    kind = getattr(preprocessor, "kind", type(preprocessor).__name__)
    return {NEEDS_TRANSFORMERS: f"{kind} reads otherwise than its file alone says"}


def _is_same(found: NDArray[Any], expected: NDArray[Any], most: float) -> bool:
    """Return whether arrays differ nowhere by more than `most`, which is usually 0."""
    if found.shape != expected.shape or most == 0:
        return np.array_equal(found, expected)
    return bool(np.abs(found - expected).max() <= most)


def _preprocessor(task: Task, folder: Path, manifest: Mapping[str, Any]) -> Any:
    with foreign(f"{folder}: its tokenizer or image processor cannot be loaded", AGAIN):
        light = None if NEEDS_TRANSFORMERS in manifest else task.light_preprocessor(folder)
        return task.load_preprocessor(folder) if light is None else light
