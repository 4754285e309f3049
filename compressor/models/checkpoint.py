"""Finds a checkpoint's files and reads what its config says, without loading torch.

Only safetensors are accepted (a pickle can run code), and a checkpoint that brings its own code is
refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch
from compressor.models.head import (
    HeadProblem,
    is_cross_encoder,
    other_head,
    read_labels,
    require_choice,
)
from compressor.models.pooling import ABOUT, MODULES, read_about
from compressor.paths import (
    ABSENT,
    HUB_ID,
    LARGEST_JSON,
    LARGEST_TOKENIZER,
    exists,
    is_folder,
    no_folder,
    resolve_path,
    special_files,
    unreadable,
)
from compressor.tasks import task_class, task_names

_ENCODES = "SentenceTransformer"  # what sentence-transformers calls an encoder of vectors
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
_SETTINGS = {"config.json", "model.safetensors.index.json", "modules.json", "structure.json"}


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint on disk: `name` is what the user wrote, `weights` at least one file."""

    name: str
    directory: Path
    weights: tuple[Path, ...]
    config: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names in the order of the logits; transformers' defaults if none.

        Raises `EnvironmentMismatch` where config.json contradicts itself about them.
        """
        try:
            return read_labels(self.config)
        except HeadProblem as error:
            raise EnvironmentMismatch(f"{self.directory / 'config.json'}: {error}") from error

    @property
    def architectures(self) -> tuple[str, ...]:
        """Return the names of the transformers classes that the checkpoint was saved from."""
        names = self.config.get("architectures")
        return tuple(map(str, names)) if isinstance(names, list | tuple) else ()

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
        gives = other_head(self.architectures)
        if gives is None:
            for name in task_names():
                if self.has_head(name):
                    self.require_head(name)
                    return name
        known = ", ".join(task_names())
        if gives is not None:
            raise EnvironmentMismatch(
                f"{self.name}: {gives}, and no task is for that; give a checkpoint that was "
                f"fine-tuned for one of {known}, or set model.task: sentence-embedding for the "
                f"vectors of its encoder"
            )
        raise EnvironmentMismatch(
            f"{self.name}: cannot tell the task from architectures {list(self.architectures)}; "
            f"set model.task to one of {known}, or give a fine-tuned checkpoint"
        )

    def has_head(self, task: str) -> bool:
        """Return whether the checkpoint was saved with a head for `task`."""
        return any(name.endswith(task_class(task).head) for name in self.architectures)

    def require_head(self, task: str) -> None:
        """Raise `EnvironmentMismatch` unless the head is one whose outputs `task` can judge."""
        kind = task_class(task)
        if not kind.names_labels:
            return
        saved_for = [name for name in self.architectures if not name.endswith(kind.head)]
        if gives := other_head(saved_for):
            raise EnvironmentMismatch(
                f"{self.name}: {gives}, which is not {task}; give a checkpoint whose architecture "
                f"ends with {kind.head}"
            )
        try:
            require_choice(self.config, self.weights, about=self._about())
        except HeadProblem as error:
            raise EnvironmentMismatch(f"{self.directory / 'config.json'}: {error}") from error

    def _about(self) -> dict[str, Any]:
        return read_about(self.directory) or {}

    def _is_cross_encoder(self) -> bool:
        return is_cross_encoder(self.config, self._about())

    def fingerprint(self) -> str:
        """Return one SHA-256 over every file that loading the checkpoint can read."""
        # Also those of folders such as 1_Pooling.
        patterns = (*_HUB_PATTERNS, "*/config.json")
        small = {path for pattern in patterns for path in self.directory.glob(pattern)}
        digest = hashlib.sha256()
        for path in sorted(small.union(self.weights)):
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            name = path.relative_to(self.directory).as_posix()
            digest.update(f"{name}\0{content}\n".encode())
        return digest.hexdigest()

    def bytes_on_disk(self) -> int:
        """Return what the weight files take; others that lie beside them are not counted."""
        return sum(path.stat().st_size for path in self.weights)

    def sha256(self) -> str:
        """Return one SHA-256 over the weight files in their order."""
        digest = hashlib.sha256()
        for path in self.weights:
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def find_checkpoint(checkpoint: str, *, revision: str | None = None) -> CheckpointFiles:
    """Return the files of a local directory or, when there is none, of a Hub repository.

    Raises `EnvironmentMismatch` when it is missing, has no safetensors, has a broken config, is
    quantized, or needs code of its own.
    """
    directory = resolve_path(Path(checkpoint), None)
    if not is_folder(directory):
        if exists(directory) or not HUB_ID.fullmatch(checkpoint):
            raise _neither(checkpoint, no_folder(directory))
        directory = _download(checkpoint, revision)
    elif revision is not None:
        raise EnvironmentMismatch(
            f"{checkpoint}: a local directory has no revision '{revision}'; remove model.revision"
        )
    _require_plain_files(directory)
    config = _read_config(checkpoint, directory)
    if "auto_map" in config:
        raise EnvironmentMismatch(
            f"{checkpoint}: its config names code of its own (auto_map), which is never run; "
            f"use a checkpoint whose architecture transformers has"
        )
    if (quantization := config.get("quantization_config")) is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise EnvironmentMismatch(
            f"{checkpoint}: is quantized already (quantization_config in its config.json"
            f"{f', by {method}' if method else ''}), and compression starts from float weights; "
            f"give the checkpoint that it was quantized from"
        )
    return CheckpointFiles(checkpoint, directory, _find_weights(checkpoint, directory), config)


def _download(checkpoint: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # only here: local checkpoints need no network
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=_HUB_PATTERNS))
    except HFValidationError as error:
        raise _neither(checkpoint, ABSENT) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentMismatch(
            f"{checkpoint}: no such directory, and it could not be fetched from the Hub "
            f"({type(error).__name__}: {error}); check the name, the network and HF_TOKEN"
        ) from error


def _require_plain_files(directory: Path) -> None:
    """Raise `EnvironmentMismatch` for anything in a checkpoint whose reading could fail or not end.

    transformers opens whatever it knows by name, so every entry has to be a file or a directory.
    """
    if (reason := no_folder(directory)) is not None:
        raise EnvironmentMismatch(f"{directory}: {reason}; give a checkpoint that may be read")
    if (special := next(special_files(directory, depth=2), None)) is not None:
        raise EnvironmentMismatch(f"{special}, and reading it might never end; remove it")
    patterns = (*_HUB_PATTERNS, "*/config.json")
    for path in sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        largest = LARGEST_JSON if path.name in _SETTINGS else LARGEST_TOKENIZER
        reason = unreadable(path, largest=None if path.suffix == ".safetensors" else largest)
        if reason is not None and not is_folder(path):
            raise EnvironmentMismatch(f"{path}: {reason}; copy or download the checkpoint again")


def _neither(checkpoint: str, reason: str | None) -> EnvironmentMismatch:
    return EnvironmentMismatch(
        f"{checkpoint}: {'no such directory' if reason == ABSENT else reason}; a checkpoint is a "
        f"directory (relative to the recipe) or a Hub id such as org/name"
    )


def _read_config(name: str, directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EnvironmentMismatch(
            f"{name}: {path} does not exist, so this is not a transformers checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise EnvironmentMismatch(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise EnvironmentMismatch(f"{path}: has no model_type, so transformers cannot load it")
    return config


def _find_weights(name: str, directory: Path) -> tuple[Path, ...]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise EnvironmentMismatch(f"{index}: not a readable shard index ({error})") from error
        if any(Path(shard).name != shard for shard in shards):
            raise EnvironmentMismatch(f"{index}: names shards outside the checkpoint: {shards}")
        weights = tuple(directory / shard for shard in shards)
    else:
        weights = (directory / "model.safetensors",)
    missing = [path.name for path in weights if not path.is_file()]
    if not missing:
        return weights
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise EnvironmentMismatch(
            f"{name}: holds only pickled weights ({', '.join(pickles)}), which can run code when "
            f"they are loaded; convert them with transformers' save_pretrained and try again"
        )
    raise EnvironmentMismatch(f"{name}: {', '.join(missing)} not found in {directory}")
