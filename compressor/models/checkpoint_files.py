"""The files of a checkpoint that was found, and what its config says, without loading torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch
from compressor.models.weight_files import StoredTensor
from compressor.runtime.sounds import READS_SAMPLES
from compressor.tasks import Task, task_class, task_names
from compressor.tasks.head import (
    HeadProblem,
    is_cross_encoder,
    is_headless,
    other_head,
    read_labels,
)
from compressor.tasks.pooling import ABOUT, MODULES, dense_files, read_about

_ENCODES = "SentenceTransformer"  # what sentence-transformers calls an encoder of vectors
# Those that loading can read, and that are fetched from the Hub.
FILE_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
_MOST_LABELS = 1_000_000
# Model types that read sound, some of whose heads are called as those for texts.
_SPEECH = re.compile(
    r"wav2vec2|hubert|wavlm|unispeech|whisper|sew|audio|speech|encodec|mctct|moonshine|seamless"
)


def files_read(directory: Path) -> list[Path]:
    """Return the files that loading a checkpoint can read, in folders such as 1_Pooling too."""
    patterns = (*FILE_PATTERNS, "*/config.json", "*/model.safetensors")
    found = {path for pattern in patterns for path in directory.glob(pattern)}
    # What is called like a file and is none is not read either.
    return sorted(path for path in found if path.is_file())


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint on disk: `name` is what the user wrote, `weights` at least one file."""

    name: str
    directory: Path
    weights: tuple[Path, ...]
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]  # by their keys in the files, without wrappers
    unread: frozenset[str] = frozenset()  # keys of a part that is not the task's
    base: str | None = None  # the model that an adapter called `name` was merged into
    reads_own_tokens: bool = True  # False where a pass changed what its tokenizer's file says

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names in the order of the logits; transformers' defaults if none.

        Raises `EnvironmentMismatch` where config.json contradicts itself about them.
        """
        place, count = self.directory / "config.json", self.config.get("num_labels")
        if type(count) is int and count > _MOST_LABELS:
            raise EnvironmentMismatch(
                f"{place}: num_labels is {count}, more than {_MOST_LABELS:,}; correct it"
            )
        try:
            found = read_labels(self.config)
        except HeadProblem as error:
            raise EnvironmentMismatch(f"{place}: {error}") from error
        for index, label in enumerate(found):
            if not _is_text(label):
                raise EnvironmentMismatch(
                    f"{place}: the name of class {index} in id2label, {label!r}, holds half of a "
                    f"character, which no file can hold; correct it"
                )
        return found

    @property
    def architectures(self) -> tuple[str, ...]:
        """Return the classes that the checkpoint was saved from, as its config names them."""
        names = self.config.get("architectures") or ()
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise EnvironmentMismatch(
                f"{self.directory / 'config.json'}: architectures must be a list of class names, "
                f"got {names!r}; correct it"
            )
        return tuple(names)

    def labels_for(self, task: Task | type[Task]) -> tuple[str, ...]:
        """Return the label names where the task's head has some; raises as `labels`."""
        return self.labels if task.has_head and task.names_labels else ()

    def infer_task(self) -> str:
        """Return the task that the checkpoint's architecture is for.

        Raises `EnvironmentMismatch` where it is for none, or its head is not one that the task
        could judge.
        """
        if (self.directory / MODULES).is_file() and not self._is_cross_encoder():
            kind = self._about().get("model_type", _ENCODES)
            if kind != _ENCODES:
                raise EnvironmentMismatch(
                    f"{self.name}: {ABOUT} calls it a {kind}, whose outputs are not the vectors of "
                    f"texts that can be compared; give a {_ENCODES} or a classifier"
                )
            return "sentence-embedding"  # whatever head the encoder was saved with
        known = ", ".join(task_names())
        if _SPEECH.search(kind := self.config["model_type"]):
            task = self._task_of_head()
            if task is not None and task_class(task).input_column == "audio":
                return task
            raise self._no_task_of_sound(kind)
        known_heads = tuple(kind.head for kind in map(task_class, task_names()) if kind.has_head)
        gives = other_head([item for item in self.architectures if not item.endswith(known_heads)])
        if gives is None and (task := self._task_of_head()) is not None:
            return task
        if gives is not None:
            raise EnvironmentMismatch(
                f"{self.name}: {gives}, and no task is for that; give a checkpoint that was "
                f"fine-tuned for one of {known}, or set model.task: {self._vector_task()} for the "
                f"vectors of its encoder"
            )
        raise EnvironmentMismatch(
            f"{self.name}: cannot tell the task from architectures {list(self.architectures)}; "
            f"set model.task to one of {known}, or give a fine-tuned checkpoint"
        )

    def _no_task_of_sound(self, kind: str) -> EnvironmentMismatch:
        """Say what a checkpoint that reads sound gives, and what can be done with it."""
        gives = other_head(self.architectures)
        if gives is None or kind not in READS_SAMPLES:
            named = ", ".join(self.architectures) or "nothing"
            gives = f"model type '{kind}' reads sound, and of that {named} is for no task"
        else:
            gives += ", and no task is for that"
        sounds = [name for name in task_names() if task_class(name).input_column == "audio"]
        advice = (
            f"give a checkpoint for one of {', '.join(sounds)}, of type {', '.join(READS_SAMPLES)}"
        )
        if (vectors := self._vectors_of_sound()) is not None:
            advice += (
                f", or set model.task: {vectors} for the vectors of its encoder (--task {vectors} "
                f"of compress init and inspect)"
            )
        return EnvironmentMismatch(f"{self.name}: {gives}; {advice}")

    def _vectors_of_sound(self) -> str | None:
        """Return the task for the vectors of an encoder of sound, None where it gives none."""
        task = self._vector_task()
        if task_class(task).input_column != "audio":
            return None
        try:
            self.require_head(task)
        except EnvironmentMismatch:
            return None
        return task

    def _task_of_head(self) -> str | None:
        """Return the task that the head is for, None where it is for none; as `require_head`."""
        for name in task_names():
            if self.has_head(name) and task_class(name).is_for(self.config):
                self.require_head(name)
                return name
        return None

    def has_head(self, task: str) -> bool:
        """Return whether the checkpoint was saved with a head for `task`."""
        kind = task_class(task)
        return any(name.endswith((kind.head, *kind.other_heads)) for name in self.architectures)

    def require_head(self, task: str) -> None:
        """Raise `EnvironmentMismatch` unless the head is one whose outputs `task` can judge."""
        kind = task_class(task)
        if kind.has_head:
            self._require_own_head(kind)
        try:
            kind.check_head(self.config, self.tensors, self._about())
        except HeadProblem as error:
            raise EnvironmentMismatch(f"{self.directory / 'config.json'}: {error}") from error
        self.labels_for(kind)  # raises for names that no file can hold

    def _require_own_head(self, kind: type[Task]) -> None:
        """Raise `EnvironmentMismatch` for a head of another task, and where there is none."""
        saved_for = [name for name in self.architectures if not name.endswith(kind.head)]
        if gives := other_head(saved_for):
            raise EnvironmentMismatch(
                f"{self.name}: {gives}, which is not {kind.name}; give a checkpoint whose "
                f"architecture ends with {kind.head}"
            )
        if is_headless(saved_for, self.tensors):
            vectors = f", or set model.task: {self._vector_task()} for its vectors"
            same = kind.input_column == task_class(self._vector_task()).input_column
            raise EnvironmentMismatch(
                f"{self.name}: {saved_for[0]} has no head, and there is none among the weights; a "
                f"checkpoint without its fine-tuned head must be fine-tuned first"
                f"{vectors if same else ''}"
            )

    def of_task(self, task: Task | type[Task]) -> CheckpointFiles:
        """Return the checkpoint with what config.json says of the part that the task reads."""
        unread = frozenset(key for key in self.tensors if task.is_of_another_part(key))
        return replace(self, config=task.part_of(self.config), unread=unread)

    def _vector_task(self) -> str:
        """Return the task for the vectors of the encoder."""
        kinds = ((name, task_class(name)) for name in task_names())
        return next(name for name, kind in kinds if not kind.has_head and kind.is_for(self.config))

    def _about(self) -> Mapping[str, object]:
        return read_about(self.directory) or {}

    def _is_cross_encoder(self) -> bool:
        return is_cross_encoder(self.config, self._about())

    def fingerprint(self) -> str:
        """Return one SHA-256 over every file that loading the checkpoint can read."""
        digest = hashlib.sha256()
        for path in sorted({*files_read(self.directory), *self.weights}):
            with _opened(path) as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            name = path.relative_to(self.directory).as_posix()
            digest.update(f"{name}\0{content}\n".encode())
        return digest.hexdigest()

    def bytes_on_disk(self) -> int:
        """Return what the weight files take, those of linear layers after pooling among them.

        Without what another part takes, such as the encoder of texts beside one of images.
        """
        files = [*self.weights, *dense_files(self.directory)]
        unread = sum(self.tensors[key].num_bytes for key in self.unread)
        return sum(path.stat().st_size for path in files) - unread

    def sha256(self) -> str:
        """Return one SHA-256 over the weight files in their order."""
        digest = hashlib.sha256()
        for path in self.weights:
            with _opened(path) as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read; raises `EnvironmentMismatch` that names it when it may not be read."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise EnvironmentMismatch(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
