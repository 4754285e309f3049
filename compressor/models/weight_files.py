"""The weight files of a checkpoint, and what their headers say of each tensor; free of torch.

A header is read in milliseconds whatever the file weighs, so a file that is truncated, locked or
not what the index says is known before anything is loaded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from compressor.errors import EnvironmentMismatch
from compressor.words import counted, listing, verb_for

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# Files of a distributed save, which transformers would prefer to the others.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
# What wrappers of torch put between the names of modules: torch.compile, FSDP, and checkpointing of
# activations. No module of a model has such a name.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_PLAIN = FLOATS | {"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and its type and shape as the header of the file has them."""

    path: Path
    dtype: str  # such as F32, BF16, I64
    shape: tuple[int, ...]
    key: str  # in the file

    @property
    def num_bytes(self) -> int:
        """Return what its numbers take."""
        bits = int("".join(filter(str.isdigit, self.dtype.partition("_")[0])) or 8)  # BOOL: 8
        return math.prod(self.shape) * bits // 8

    @property
    def is_float(self) -> bool:
        """Return whether it holds float numbers that need no scale beside them."""
        return self.dtype in FLOATS


def find_weights(name: str, directory: Path) -> tuple[Path, ...]:
    """Return the weight files of the checkpoint called `name`.

    Raises `EnvironmentMismatch` when there are none, only pickles, an adapter, or two sets of
    which it is not clear which one is meant.
    """
    refuse_adapter(name, directory)
    if found := sorted(p.name for p in directory.iterdir() if _DISTRIBUTED.fullmatch(p.name)):
        raise EnvironmentMismatch(
            f"{name}: holds files of a distributed save ({', '.join(found[:3])}); load it where it "
            f"was trained and save it with save_pretrained"
        )
    index, single = directory / INDEX, directory / WEIGHTS
    weights = tuple(sorted(set(_read_index(index).values()))) if index.is_file() else (single,)
    if index.is_file() and single.is_file():
        raise EnvironmentMismatch(
            f"{name}: holds both {WEIGHTS} and {INDEX}, two sets of weights of which one may be "
            f"old; remove the one that is not meant"
        )
    missing = [path.name for path in weights if not path.is_file()]
    there = sorted(path.name for path in directory.glob("*.safetensors"))
    if not missing:
        read = {path.name for path in weights}
        if old := [other for other in there if _SHARD.fullmatch(other) and other not in read]:
            raise EnvironmentMismatch(
                f"{name}: holds {listing(old, 3)} beside {INDEX if index.is_file() else WEIGHTS}, "
                f"which {verb_for(len(old), 'is', 'are')} no part of it and may be of another "
                f"save; remove the files that are not meant"
            )
        return weights
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise EnvironmentMismatch(
            f"{name}: holds only pickled weights ({', '.join(pickles)}), which can run code when "
            f"they are loaded; convert them with transformers' save_pretrained and try again"
        )
    if there and not index.is_file():
        raise EnvironmentMismatch(
            f"{name}: {WEIGHTS} not found in {directory}, which holds {listing(there, 3)}; "
            + (
                f"shards are read by {INDEX}, so copy or download that too"
                if any(map(_SHARD.fullmatch, there))
                else f"rename the file of the model's weights to {WEIGHTS}"
            )
        )
    raise EnvironmentMismatch(
        f"{name}: {', '.join(missing)} not found in {directory}; copy or download it again"
    )


def refuse_adapter(name: str, directory: Path) -> None:
    """Raise `EnvironmentMismatch` where an adapter lies in the folder.

    transformers adds it where peft is installed and leaves it out elsewhere, so what is loaded
    would depend on the machine.
    """
    found = sorted(path.name for path in directory.glob("adapter_model.*"))
    found += [ADAPTER] if (directory / ADAPTER).is_file() else []
    if found:
        raise EnvironmentMismatch(
            f"{name}: holds an adapter ({', '.join(found)}), which is not a whole model; merge it "
            f"into its base model (peft: model.merge_and_unload()), save that with "
            f"save_pretrained, and give the folder without {' and '.join(found)}"
        )


def read_headers(name: str, directory: Path, weights: Sequence[Path]) -> dict[str, StoredTensor]:
    """Return the tensors of all files, which were seen to be readable, by their keys.

    Raises `EnvironmentMismatch` when a file cannot be read, is damaged, holds a key of another
    file, or does not hold what the index says.
    """
    found: dict[str, StoredTensor] = {}
    for path in weights:
        for key, tensor in _read_header(path).items():
            if key in found:
                raise EnvironmentMismatch(
                    f"{name}: both {found[key].path.name} and {path.name} hold '{key}'; take all "
                    f"files from the same save"
                )
            found[key] = tensor
    if not found:
        raise EnvironmentMismatch(
            f"{weights[0]}: holds no tensors; copy or download the weights again"
        )
    if (index := directory / INDEX).is_file():
        _check_index(index, _read_index(index), found)
    odd = {key: tensor.dtype for key, tensor in found.items() if tensor.dtype not in _PLAIN}
    if odd:
        key, dtype = next(iter(odd.items()))
        raise EnvironmentMismatch(
            f"{name}: {counted(len(odd), 'tensor')} such as '{key}' "
            f"{verb_for(len(odd), 'is', 'are')} of type {dtype}, which is a quantized one, and "
            f"compression starts from float weights; give the checkpoint that it was quantized from"
        )
    return found


def unwrapped(name: str, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return tensors by the keys that they had before the model was wrapped.

    Raises `EnvironmentMismatch` where two of them have one key then.
    """
    found: dict[str, StoredTensor] = {}
    for key, tensor in tensors.items():
        plain = key
        for wrapper in WRAPPERS:
            plain = plain.replace(wrapper, "")
        if plain in found:
            raise EnvironmentMismatch(
                f"{name}: '{found[plain].key}' and '{key}' are one weight, of which one was saved "
                f"from a wrapped model (torch.compile, FSDP); remove the one that is not meant"
            )
        found[plain] = tensor
    return found


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="numpy") as content:
            slices = {key: content.get_slice(key) for key in content.keys()}  # noqa: SIM118
            return {
                key: StoredTensor(path, str(part.get_dtype()), tuple(part.get_shape()), key)
                for key, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise EnvironmentMismatch(
            f"{path}: not a readable safetensors file ({error}); it may be truncated: copy or "
            f"download it again"
        ) from error


def _read_index(index: Path) -> dict[str, Path]:
    """Return the file of each key, as a shard index says."""
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
        places = dict(content["weight_map"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvironmentMismatch(
            f"{index}: not a readable shard index ({error!r}); copy or download it again"
        ) from error
    odd = [shard for shard in places.values() if not _is_file_name(shard)]
    if odd:
        raise EnvironmentMismatch(
            f"{index}: names shards outside the checkpoint: {odd[:3]}; a shard is a safetensors "
            f"file beside the index, so copy or download the index again"
        )
    if not places:
        raise EnvironmentMismatch(f"{index}: names no shard; copy or download it again")
    if not isinstance(content.get("metadata"), dict):  # transformers reads it, whatever it says
        raise EnvironmentMismatch(
            f"{index}: has no 'metadata', without which transformers does not read it; add "
            f'"metadata": {{}} to it, or copy or download it again'
        )
    return {str(key): index.parent / places[key] for key in sorted(places, key=str)}


def _is_file_name(shard: object) -> bool:
    return isinstance(shard, str) and Path(shard).name == shard and "\0" not in shard


def _check_index(
    index: Path, wanted: Mapping[str, Path], found: Mapping[str, StoredTensor]
) -> None:
    misplaced = [key for key, path in wanted.items() if key not in found or found[key].path != path]
    beyond = sorted(found.keys() - wanted.keys())
    if misplaced or beyond:
        said = f"{shown(misplaced)} of the index not where it says" if misplaced else ""
        more = f"{shown(beyond)} of the shards not in the index" if beyond else ""
        raise EnvironmentMismatch(
            f"{index}: does not fit its shards ({'; '.join(filter(None, (said, more)))}); take all "
            f"files from the same save"
        )


def shown(keys: Sequence[str], most: int = 5) -> str:
    """Return the first of several keys, and how many there are in all."""
    return listing([f"'{key}'" for key in keys], most)
