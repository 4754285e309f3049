"""Finds a checkpoint's files and reads what its config says, without loading torch.

Only safetensors are accepted (a pickle can run code), and a checkpoint that brings its own code is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch, shortened
from compressor.models.adapters import Adapter, read_adapter
from compressor.models.checkpoint_files import FILE_PATTERNS, CheckpointFiles
from compressor.models.families import family_of
from compressor.models.packaged import is_trained_here, local_folder
from compressor.models.weight_files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    find_weights,
    read_headers,
    refuse_adapter,
    unwrapped,
)
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
from compressor.tasks.pooling import MODULES, read_steps

__all__ = ["CheckpointFiles", "describe_checkpoint", "find_checkpoint"]

_SETTINGS = {"config.json", "model.safetensors.index.json", "modules.json", "structure.json"}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")  # no model is without
# What config.json may say that would let transformers read other weights than those found here, or
# compute something else than it did when they were made.
_REFUSED = {
    "transformers_weights": "names weights of its own, beside the usual files; rename that file to "
    "model.safetensors and remove the key",
    "fusion_config": "replaces parts of the model while it is loaded; remove the key",
}
_MOST_CHARACTERS = 120  # of what the Hub's client says, which is several lines


def find_checkpoint(
    checkpoint: str, *, revision: str | None = None, base: str | None = None
) -> CheckpointFiles:
    """Return the files of a local directory or, when there is none, of a Hub repository.

    An adapter is merged into `base`, or into the model that it names; its files are then those of
    the merged checkpoint. Raises `EnvironmentMismatch` when it is missing, has no safetensors, has
    a broken config, is quantized, or needs code of its own.
    """
    directory = _directory(checkpoint, revision)
    _require_plain_files(directory)
    adapter = read_adapter(checkpoint, directory)
    if adapter is not None:
        base = base or adapter.base
        if not base:
            raise EnvironmentMismatch(
                f"{adapter.place}: names no base_model_name_or_path; set model.base to the model "
                f"that the adapter was trained on, a directory or a Hub id"
            )
        return replace(_files_in(checkpoint, _merged(adapter, base)), base=base)
    if base is not None:
        raise EnvironmentMismatch(
            f"{checkpoint}: is no adapter ({ADAPTER}, {ADAPTER_WEIGHTS}), so it needs no base; "
            f"remove model.base"
        )
    return _files_in(checkpoint, directory)


def _merged(adapter: Adapter, base: str) -> Path:
    """Return the folder of the checkpoint that an adapter and its base make."""
    # Only here: what it loads, torch among it, other checkpoints do not need yet.
    from compressor.models.merging import merge

    try:
        is_named = base == adapter.base and local_folder(base) is None
        directory = _directory(base, adapter.base_revision if is_named else None)
        _require_plain_files(directory)
        if (directory / ADAPTER).is_file():
            raise EnvironmentMismatch(f"{base}: is an adapter too; merge that one first")
        found = _files_in(base, directory)
    except EnvironmentMismatch as error:
        raise EnvironmentMismatch(
            f"{adapter.name}: holds an adapter, whose base model cannot be read: {error}; set "
            f"model.base to the model that it was trained on, a directory or a Hub id"
        ) from error
    return merge(adapter, found)


def _directory(checkpoint: str, revision: str | None) -> Path:
    """Return the folder of a checkpoint, fetched from the Hub where none lies here."""
    if not checkpoint.strip():
        raise EnvironmentMismatch("checkpoint: the name is empty; give a directory or a Hub id")
    try:
        directory = local_folder(checkpoint) or resolve_path(Path(checkpoint), None)
    except ValueError as error:
        raise EnvironmentMismatch(f"{checkpoint}: {error}; write the whole path") from error
    if not is_folder(directory):
        if is_trained_here(checkpoint):
            raise EnvironmentMismatch(
                f"{checkpoint}: is not in the cache yet; `compress quickstart --digits` trains it"
            )
        if exists(directory) or not HUB_ID.fullmatch(checkpoint):
            raise _neither(checkpoint, no_folder(directory))
        directory = _download(checkpoint, revision)
    elif revision is not None:
        raise EnvironmentMismatch(
            f"{checkpoint}: a local directory has no revision '{revision}'; remove model.revision"
        )
    return directory


def _files_in(checkpoint: str, directory: Path) -> CheckpointFiles:
    """Return the files of the checkpoint in a folder, which can be read."""
    config = _read_config(checkpoint, directory)
    _refuse_unread(checkpoint, config)
    if config.get("auto_map"):
        raise EnvironmentMismatch(
            f"{checkpoint}: its config names code of its own (auto_map), which is never run; "
            f"use a checkpoint whose architecture transformers has, or, if transformers has model "
            f"type '{config['model_type']}' and computes the same, remove auto_map from config.json"
        )
    if (quantization := config.get("quantization_config")) is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise EnvironmentMismatch(
            f"{checkpoint}: is quantized already (quantization_config in its config.json"
            f"{f', by {method}' if method else ''}), and compression starts from float weights; "
            f"give the checkpoint that it was quantized from"
        )
    try:
        weights = find_weights(checkpoint, directory)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{directory}: cannot be listed ({error.strerror or error}); check its permissions"
        ) from error
    tensors = unwrapped(checkpoint, read_headers(checkpoint, directory, weights))
    return CheckpointFiles(checkpoint, directory, weights, config, tensors)


def describe_checkpoint(checkpoint: str, *, base: str | None = None) -> CheckpointFiles | None:
    """Return a local folder's checkpoint, whatever is wrong with its weights: then without them.

    None without a config.json that can be read, which `find_checkpoint` says more of.
    """
    try:
        return find_checkpoint(checkpoint, base=base)
    except EnvironmentMismatch:
        directory = Path(checkpoint)
    if unreadable(directory / "config.json", largest=LARGEST_JSON) is not None:
        return None
    try:
        config = _read_config(checkpoint, directory)
    except EnvironmentMismatch:
        return None
    return CheckpointFiles(checkpoint, directory, (), config, {})


def _download(checkpoint: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # only here: local checkpoints need no network
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(
            snapshot_download(checkpoint, revision=revision, allow_patterns=list(FILE_PATTERNS))
        )
    except HFValidationError as error:
        raise _neither(checkpoint, ABSENT) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentMismatch(
            f"{checkpoint}: no such directory, and it could not be fetched from the Hub "
            f"({type(error).__name__}: {shortened(error, _MOST_CHARACTERS)}); check the name, the "
            f"network and HF_TOKEN"
        ) from error


def _require_plain_files(directory: Path) -> None:
    """Raise `EnvironmentMismatch` for anything in a checkpoint whose reading could fail or not end.

    transformers opens whatever it knows by name, so every entry has to be a file or a directory.
    """
    if (reason := no_folder(directory)) is not None:
        raise EnvironmentMismatch(f"{directory}: {reason}; give a checkpoint that may be read")
    if (special := next(special_files(directory, depth=2), None)) is not None:
        raise EnvironmentMismatch(f"{special}, and reading it might never end; remove it")
    patterns = (*FILE_PATTERNS, "*/config.json")
    for path in sorted({path for pattern in patterns for path in directory.glob(pattern)}):
        largest = LARGEST_JSON if path.name in _SETTINGS else LARGEST_TOKENIZER
        reason = unreadable(path, largest=None if path.suffix == ".safetensors" else largest)
        if reason is not None and not is_folder(path):
            raise EnvironmentMismatch(
                f"{path}: {reason}; let this user read it, or copy or download the checkpoint again"
            )


def _neither(checkpoint: str, reason: str | None) -> EnvironmentMismatch:
    return EnvironmentMismatch(
        f"{checkpoint}: {'no such directory' if reason == ABSENT else reason}; a checkpoint is a "
        f"directory (relative to the recipe) or a Hub id such as org/name"
    )


def _refuse_unread(name: str, config: Mapping[str, object]) -> None:
    """Raise `EnvironmentMismatch` for a setting that this transformers would not compute."""
    for key in _SIZES:
        if key in config and config[key] is None:
            raise EnvironmentMismatch(
                f"{name}: {key} in its config.json is null, and no model has that; write the "
                f"number that it was trained with"
            )
    for key, why in _REFUSED.items():
        if config.get(key):
            raise EnvironmentMismatch(f"{name}: {key} in its config.json {why}")
    kind = config.get("position_embedding_type", "absolute")
    others = family_of(config["model_type"]).position_types
    if kind not in (None, "absolute", *others):
        known = " and ".join(("absolute", *others))
        raise EnvironmentMismatch(
            f"{name}: position_embedding_type in its config.json is {kind!r}, and transformers 5 "
            f"computes {known} positions alone for model type '{config['model_type']}', so it "
            f"would be another model; give a checkpoint with {known.replace(' and ', ' or ')} "
            f"positions"
        )


def _read_config(name: str, directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _no_config(name, directory) from error
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise EnvironmentMismatch(f"{path}: has no model_type, so transformers cannot load it")
    if not isinstance(config["model_type"], str):
        raise EnvironmentMismatch(
            f"{path}: model_type must be text such as 'bert', got {config['model_type']!r}"
        )
    return config


def _no_config(name: str, directory: Path) -> EnvironmentMismatch:
    """Say what a folder without config.json may be."""
    refuse_adapter(name, directory)
    inside = sorted(path.parent.name for path in directory.glob("*/config.json"))
    steps = read_steps(directory) or ["Transformer"]
    if steps[0] != "Transformer":
        return EnvironmentMismatch(
            f"{name}: the steps in {MODULES} are {', '.join(steps)}, and only what begins with one "
            f"Transformer can be compressed; give the folder of such an encoder, if it has one"
        )
    if (directory / MODULES).is_file() and inside:
        folder = next((item for item in inside if "Transformer" in item), inside[0])
        return EnvironmentMismatch(
            f"{name}: is an old layout of sentence-transformers, with the encoder in {folder}; "
            f"move the files of {folder} beside {MODULES} and set the path of its first step to an "
            f"empty text"
        )
    hint = f"; there is one in {', '.join(inside[:3])}: give that folder" if inside else ""
    return EnvironmentMismatch(
        f"{name}: {directory / 'config.json'} does not exist, so this is not a transformers "
        f"checkpoint{hint or '; give a folder that save_pretrained wrote'}"
    )
