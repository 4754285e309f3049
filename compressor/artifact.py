"""What is shipped: a directory that needs nothing but ONNX Runtime and its own files.

`manifest.json` names every file with its SHA-256, so that a damaged or mixed-up artifact is refused
when it is loaded. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import EnvironmentMismatch
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import AS_WRITTEN, PLAIN
from compressor.models.runtime_versions import require_runtime
from compressor.tasks import Example, Task, load_task

MANIFEST = "manifest.json"
MODEL = "model.onnx"
MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact; call it with a list of texts, pairs of texts, or images."""

    directory: Path
    manifest: Mapping[str, Any]
    model: OnnxModel
    preprocessor: Any
    task: Task

    def __call__(self, examples: Sequence[Example]) -> Any:
        """Return the task's answers, one for each example.

        A classifier's are a list of `{"label", "label_id", "score"}`, an encoder's an array of
        vectors, float32 of shape `(num_examples, width)`.
        """
        return self.task.answers(self.outputs(examples), self.manifest["labels"])

    def outputs(self, examples: Sequence[Example], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return what the graph gives, such as `(num_examples, num_labels)`.

        Raises `ValueError` for anything that is no list of what the model reads.
        """
        given = self.task.given(examples, pairs=_reads_pairs(self.manifest))
        chunks = [
            self.model.predict(
                self.task.encode(self.preprocessor, given[start : start + batch_size])
            )
            for start in range(0, len(given), batch_size)
        ]
        return np.concatenate(chunks)

    def logits(self, examples: Sequence[Example], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Return the logits of a classifier, shape `(num_examples, num_labels)`."""
        return self.outputs(examples, batch_size=batch_size)


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
    config: Any,
) -> OnnxModel:
    """Copy the graph and all that is needed to use it into `directory`, and return it from there.

    `config` is the transformers config of the checkpoint; `seal_artifact` completes the artifact.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.path, directory / MODEL)
    data = model.path.with_name(model.path.name + ".data")  # present above 2 GB
    if data.is_file():
        shutil.copyfile(data, directory / data.name)
    preprocessor.save_pretrained(directory)
    config.save_pretrained(directory)
    return dataclasses.replace(model, path=directory / MODEL)


def seal_artifact(
    directory: Path, *, task: Task, labels: Sequence[str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `manifest.json` over the files in `directory` and return it.

    `facts` go into the manifest as they are. The same files and facts give the same bytes.
    """
    files = sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST
    )
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "task": task.name,
        "labels": list(labels),
        "max_length": task.max_length,
        **facts,
        "files": {path.relative_to(directory).as_posix(): sha256(path) for path in files},
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = directory / f"{MANIFEST}.partial"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(directory / MANIFEST)
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

    Raises `EnvironmentMismatch` when a file is missing or changed, or `provider` is not there.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    if verify:
        verify_artifact(folder, manifest)
    require_runtime(folder, manifest)
    task = load_task(manifest["task"], max_length=manifest["max_length"])
    settings = PLAIN if manifest.get("provider", provider) == provider else AS_WRITTEN
    model = OnnxModel(folder / MODEL, provider=provider, threads=threads, settings=settings)
    return Artifact(folder, manifest, model, task.load_preprocessor(folder), task)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest; raises `EnvironmentMismatch` when it cannot be used."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EnvironmentMismatch(
            f"{path}: not found; an artifact is the `artifact` folder of a finished run"
        ) from error
    except ValueError as error:
        raise EnvironmentMismatch(f"{path}: not a readable manifest ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("manifest_version") != MANIFEST_VERSION:
        raise EnvironmentMismatch(
            f"{path}: manifest_version {MANIFEST_VERSION} is supported; make the artifact again "
            f"with this version of compressor"
        )
    return manifest


def verify_artifact(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `EnvironmentMismatch` naming the files that are missing or not as they were written."""
    bad = [
        name
        for name, expected in manifest["files"].items()
        if not (directory / name).is_file() or sha256(directory / name) != expected
    ]
    if bad:
        raise EnvironmentMismatch(
            f"{directory}: {', '.join(bad)} missing or changed since the artifact was written; "
            f"copy it again"
        )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
