"""The artifact: a directory that needs nothing but ONNX Runtime and its own files.

`manifest.json` names every file with its SHA-256, so that a damaged or mixed-up artifact is refused
when it is loaded; so is a file beside them that would be read and is not named. Nothing here
imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from compressor.errors import EnvironmentMismatch
from compressor.files import facts_sha256, sha256, write_whole
from compressor.models.guard import foreign
from compressor.models.onnx_model import OnnxModel
from compressor.models.predict import predict_rows
from compressor.models.provider_options import AS_WRITTEN, PLAIN
from compressor.models.runtime_versions import require_runtime
from compressor.models.text_files import keep_settings_apart
from compressor.onnx_graph.onnx_file import data_files
from compressor.paths import ABSENT, LARGEST_JSON, unreadable
from compressor.setting_errors import each_key_once
from compressor.tasks import Example, Outputs, Rows, Task, load_task, task_names
from compressor.words import listing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MANIFEST = "manifest.json"
MODEL = "model.onnx"
_OWN_DIGEST = "manifest_sha256"
MANIFEST_VERSION = 1

# What transformers reads of a directory when it finds it, whether a checkpoint had it or not.
_READ_WITH_IT = frozenset((".json", ".txt", ".model", ".jinja", ".bpe", ".tiktoken"))
_CHAT_TEMPLATES = "additional_chat_templates"
_AGAIN = "copy the artifact again, or make it again"
_MOST_NAMED = 5  # files in a message


def _file_name(name: str) -> str:
    path = PurePosixPath(name)
    # Windows would read a backslash and a drive as parts of a path.
    if not name.isprintable() or path.is_absolute() or {"\\", ":"} & set(name):
        raise ValueError("must be a path relative to the artifact")
    if path.as_posix() != name or ".." in path.parts or name in (".", MANIFEST):
        raise ValueError("must be a plain path of another file inside the artifact")
    return name


def _task_name(name: str) -> str:
    if name not in task_names():
        raise ValueError(f"must be one of {', '.join(task_names())}")
    return name


_FileName = Annotated[str, AfterValidator(_file_name)]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Manifest(BaseModel):
    """What loading an artifact relies on; a manifest holds more, which is for people."""

    model_config = ConfigDict(strict=True, frozen=True)

    manifest_version: Literal[1]
    task: Annotated[str, AfterValidator(_task_name)]
    labels: list[str]
    max_length: Annotated[int, Field(ge=1)] | None
    thresholds: list[Annotated[float, Field(gt=0, lt=1)]] | None = None
    provider: str = "cpu"
    files: dict[_FileName, _Sha256]


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact; call it with a list of texts, pairs of texts, or images."""

    directory: Path
    manifest: Mapping[str, Any]
    model: OnnxModel
    preprocessor: Any
    task: Task

    def __call__(
        self,
        examples: Sequence[Example],
        *,
        prompt_name: str | None = None,
        aggregation: str | None = None,
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
        model reads, and for an `aggregation` of another task.
        """
        task = self.task if aggregation is None else self.task.aggregated(aggregation)
        outputs = self._outputs(examples, prompt_name=prompt_name)
        return task.predictions(outputs, self.manifest["labels"])

    def outputs(self, examples: Sequence[Example], *, batch_size: int = 32) -> Rows:
        """Return what the graph gives for each example, such as `(num_examples, num_labels)`.

        Raises `ValueError` for anything that is no list of what the model reads.
        """
        return self._outputs(examples, batch_size=batch_size).per_example()

    def _outputs(
        self, examples: Sequence[Example], *, batch_size: int = 32, prompt_name: str | None = None
    ) -> Outputs:
        given = self.task.given(examples, pairs=_reads_pairs(self.manifest))
        if prompt_name is not None:
            given = self.task.prompted(self.preprocessor, given, prompt_name)
        batches = [
            self.task.encode(self.preprocessor, given[start : start + batch_size])
            for start in range(0, len(given), batch_size)
        ]
        return self.task.predicted(lambda part: predict_rows(self.model, part, batch_size), batches)

    def logits(self, examples: Sequence[Example], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return the logits of a classifier, shape `(num_examples, num_labels)`."""
        return np.asarray(self.outputs(examples, batch_size=batch_size))


def _reads_pairs(manifest: Mapping[str, Any]) -> bool | None:
    """Return whether the rows it was judged on were pairs of texts, None where nothing says."""
    data = (manifest.get("recipe") or {}).get("data") or {}
    sources = [data.get(name) or {} for name in ("search", "certification", "train")]
    named = [source.get("text") or data.get("text") or "text" for source in sources if source]
    found = {not isinstance(columns, str) for columns in named}
    return found.pop() if len(found) == 1 else None


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
    manifest[_OWN_DIGEST] = _digest_of(manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(directory / MANIFEST, text)
    return manifest


def load_artifact(
    directory: str | Path,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    verify: bool = True,
) -> Artifact:
    """Load an artifact after checking every file against the manifest.

    An artifact that was made for another provider than the CPU computes its quantize-dequantize
    pairs there as they are written, in float.

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
    settings = PLAIN if manifest.get("provider", provider) == provider else AS_WRITTEN
    model = OnnxModel(folder / MODEL, provider=provider, threads=threads, settings=settings)
    return Artifact(folder, manifest, model, _preprocessor(task, folder), task)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest; raises `EnvironmentMismatch` when it cannot be used."""
    path = directory / MANIFEST
    reason = unreadable(path, largest=LARGEST_JSON)
    if reason not in (None, ABSENT):
        raise EnvironmentMismatch(f"{path}: not a readable manifest: it {reason}; {_AGAIN}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=each_key_once)
    except FileNotFoundError as error:
        raise EnvironmentMismatch(
            f"{path}: not found; an artifact is the `artifact` folder of a finished run"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{path}: not a readable manifest ({error}); {_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("manifest_version") != MANIFEST_VERSION:
        raise EnvironmentMismatch(
            f"{path}: manifest_version {MANIFEST_VERSION} is supported; make the artifact again "
            f"with this version of compressor"
        )
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise EnvironmentMismatch(
            f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}{more}; the manifest "
            f"was edited or damaged: {_AGAIN}"
        ) from error
    labels, thresholds = manifest["labels"], manifest.get("thresholds")
    if thresholds is not None and len(thresholds) != len(labels):
        raise EnvironmentMismatch(
            f"{path}: thresholds must have one number for each of its labels, has "
            f"{len(thresholds)} for {len(labels)}; {_AGAIN}"
        )
    if MODEL not in manifest["files"]:
        raise EnvironmentMismatch(
            f"{path}: files does not list {MODEL}, so nothing says which model this is; {_AGAIN}"
        )
    # Artifacts of before this key existed have none.
    if manifest.get(_OWN_DIGEST, digest := _digest_of(manifest)) != digest:
        raise EnvironmentMismatch(
            f"{path}: was edited after the run: its {_OWN_DIGEST} is not that of its content, so "
            f"what it says of labels, lengths and scores is nobody's measurement; {_AGAIN}"
        )
    return manifest


def _digest_of(manifest: Mapping[str, object]) -> str:
    """Return the SHA-256 of what a manifest says besides its own SHA-256."""
    return facts_sha256({key: value for key, value in manifest.items() if key != _OWN_DIGEST})


def verify_artifact(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `EnvironmentMismatch` naming the files that are not as the manifest says.

    A listed file may be a link, as in a download from the Hub: its content is what counts. A file
    that is not listed is refused where loading the artifact would read it, because it could change
    predictions; others, such as a licence, are nobody's business.
    """
    listed = manifest["files"]
    bad = [name for name, expected in listed.items() if _sha256_of(directory / name) != expected]
    if bad:
        raise EnvironmentMismatch(
            f"{directory}: {listing(bad, _MOST_NAMED)} missing or changed since the artifact "
            f"was written; copy it again"
        )
    read = {path.relative_to(directory).as_posix() for path in _read_if_there(directory)}
    read |= {path.as_posix() for path in data_files(directory / MODEL)}
    if unlisted := sorted(read - set(listed) - {MANIFEST}):
        raise EnvironmentMismatch(
            f"{directory}: {listing(unlisted, _MOST_NAMED)} would be read with the artifact, but "
            f"{MANIFEST} does not list it, so nobody measured what it changes; remove it, or "
            f"{_AGAIN}"
        )


def _read_if_there(directory: Path) -> list[Path]:
    """Return the files that loading a tokenizer or image processor reads when they are there."""
    templates = directory / _CHAT_TEMPLATES
    return [
        *(path for path in directory.iterdir() if path.suffix.lower() in _READ_WITH_IT),
        *(templates.iterdir() if templates.is_dir() else ()),
    ]


def _sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where no file can be read."""
    try:
        return sha256(path) if path.is_file() else None
    except OSError:  # a loop of links, or no right to read it
        return None


def _preprocessor(task: Task, folder: Path) -> Any:
    with foreign(f"{folder}: its tokenizer or image processor cannot be loaded", _AGAIN):
        return task.load_preprocessor(folder)
