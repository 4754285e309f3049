"""Merges an adapter of PEFT into its base model, once: the cache keeps what was merged.

PEFT itself computes the weights. What it passes over without a word is an error here: weights of
the adapter that the base has no place for, and weights that neither of the two has.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from compressor.errors import EnvironmentMismatch
from compressor.files import remove_unused
from compressor.machine.quiet import quiet_libraries
from compressor.models.adapters import PACKAGE, Adapter
from compressor.models.checkpoint_files import CheckpointFiles, files_read
from compressor.models.guard import foreign
from compressor.models.loading import STRUCTURE, load_weights
from compressor.models.weight_files import ADAPTER, INDEX, shown
from compressor.models.weight_keys import require_fit
from compressor.paths import cache_directory

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_PREFIX = "base_model.model."  # of the base's own names in an adapter's file
_NAME = "default"
_FORMAT = 1  # of what is kept; another one is merged anew
# Those that say how texts become tokens: all of them come from one of the two folders.
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
_OTHERS = {"preprocessor_config.json", "modules.json", "config_sentence_transformers.json"}
_WRITTEN = {"config.json", ADAPTER, INDEX, "generation_config.json", "README.md"}


def merge(adapter: Adapter, base: CheckpointFiles) -> Path:
    """Return the folder of the merged checkpoint, which is made when the cache lacks it.

    Raises `EnvironmentMismatch` when adapter and base do not go together.
    """
    if (base.directory / STRUCTURE).is_file():
        raise EnvironmentMismatch(
            f"{adapter.name}: its base {base.name} is pruned ({STRUCTURE}), which peft cannot "
            f"load; give the checkpoint that the adapter was trained on"
        )
    place = cache_directory() / "merged"
    folder = place / _digest(adapter, base)
    if (folder / "config.json").is_file():
        os.utime(folder)
        return folder
    remove_unused(place)
    place.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=place, prefix="merging-"))
    try:
        _write(adapter, base, fresh)
        _put(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _put(fresh: Path, folder: Path) -> None:
    """Move what was merged to its place; another process may have been first."""
    try:
        fresh.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise


def _digest(adapter: Adapter, base: CheckpointFiles) -> str:
    """Return one SHA-256 over all that the merged weights depend on."""
    versions = [importlib.metadata.version(name) for name in (PACKAGE, "transformers", "torch")]
    digests = [_files_digest(_states(folder)) for folder in (adapter.directory, base.directory)]
    return sha256(json.dumps([_FORMAT, *versions, *digests]).encode()).hexdigest()[:32]


def _states(folder: Path) -> tuple[tuple[str, str, int, int], ...]:
    found = []
    for path in files_read(folder):
        state = path.stat()
        name = path.relative_to(folder).as_posix()
        found.append((str(path), name, state.st_size, state.st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=32)
def _files_digest(states: tuple[tuple[str, str, int, int], ...]) -> str:
    """Return one SHA-256 over files; a checkpoint is looked for several times in a run."""
    digest = sha256()
    for path, name, *_ in states:
        content = sha256()
        with Path(path).open("rb") as stream:
            while chunk := stream.read(1 << 20):
                content.update(chunk)
        digest.update(f"{name}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()


def _write(adapter: Adapter, base: CheckpointFiles, folder: Path) -> None:
    with foreign(
        f"{adapter.name}: cannot be merged into {base.name}",
        "give the model that the adapter was trained on (model.base), with a release of peft that "
        "reads it",
    ):
        with quiet_libraries():
            module = _loaded(adapter, base)
            merged = _merged(adapter, base, module)
            merged.save_pretrained(folder)
        _copy_files(adapter, base, folder)


def _loaded(adapter: Adapter, base: CheckpointFiles) -> PreTrainedModel:
    """Return the base with a head as wide as the adapter's, checked for what both lack."""
    stored = {_own_name(key): tensor.shape for key, tensor in adapter.tensors.items()}
    config = transformers.AutoConfig.from_pretrained(base.directory, trust_remote_code=False)
    auto_class = _class(adapter, base)
    _fit_labels(adapter, config, auto_class, stored)
    module, fit = load_weights(base, auto_class, config)
    # What the adapter brings along whole takes the place of what the base has or lacks.
    fit = replace(
        fit,
        missing=tuple(name for name in fit.missing if name not in stored),
        wrong_shape=tuple(item for item in fit.wrong_shape if item[0] not in stored),
    )
    reads_head = adapter.class_name not in ("AutoModel", None)
    drawn = [name for name in fit.missing if reads_head and not name.startswith(_inside(module))]
    if drawn:
        raise EnvironmentMismatch(
            f"{adapter.name}: neither the adapter nor its base {base.name} holds {shown(drawn)}, "
            f"which training drew by chance and did not save; name them in modules_to_save and "
            f"train the adapter again, or merge it where it was trained"
        )
    require_fit(base, module, fit, reads_head=reads_head, described_by="config.json")
    table = module.get_input_embeddings() if module.main_input_name == "input_ids" else None
    for name, part in list(module.named_modules()) if table is not None else ():
        rows = stored.get(f"{name}.weight", (0,))[0] if part is table else 0
        if rows:
            module.resize_token_embeddings(rows)  # nothing where there are as many
    return module


def _inside(module: PreTrainedModel) -> str:
    return f"{module.base_model_prefix}."


def _class(adapter: Adapter, base: CheckpointFiles) -> Any:
    """Return the class of transformers that the adapter was trained in."""
    name = adapter.class_name
    if name is None:
        architectures = base.architectures
        name = architectures[0] if len(architectures) == 1 else ""
    found = getattr(transformers, name, None)
    is_auto = name.startswith("AutoModel")
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if found is None or not (is_auto or is_model):
        raise EnvironmentMismatch(
            f"{adapter.place}: has no task_type, and transformers {transformers.__version__} has "
            f"no class {name!r} (auto_mapping, or architectures of the base); write the task_type, "
            f"such as SEQ_CLS"
        )
    return found


def _fit_labels(
    adapter: Adapter,
    config: PreTrainedConfig,
    auto_class: Any,
    stored: Mapping[str, tuple[int, ...]],
) -> None:
    """Let a configuration have as many labels as the adapter's head, and its names where given."""
    with torch.device("meta"):
        blank = (
            auto_class.from_config(config)
            if hasattr(auto_class, "from_config")
            else auto_class._from_config(config)
        )
    own = {name: tuple(value.shape) for name, value in blank.state_dict().items()}
    count = config.num_labels
    counts = {
        shape[0]
        for name, shape in stored.items()
        if name in own and shape != own[name] and own[name] == (count, *shape[1:])
    }
    if len(counts) == 1:
        config.num_labels = counts.pop()
    given = adapter.directory / "config.json"
    if not given.is_file():
        return
    names = json.loads(given.read_text(encoding="utf-8")).get("id2label")
    if isinstance(names, dict) and len(names) == config.num_labels:
        config.id2label = {int(key): str(value) for key, value in names.items()}
        config.label2id = {label: index for index, label in config.id2label.items()}


def _merged(adapter: Adapter, base: CheckpointFiles, module: PreTrainedModel) -> PreTrainedModel:
    """Return the base with the adapter in its weights; raises for any that found no place."""
    peft: Any = importlib.import_module(PACKAGE)
    settings = peft.PeftConfig.from_pretrained(adapter.directory)
    settings.inference_mode = True
    model = peft.get_peft_model(module, settings, adapter_name=_NAME)
    result = model.load_adapter(adapter.directory, _NAME, torch_device="cpu")
    # Of what it holds whole, and not as a product, peft does not tell what is missing.
    kept = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    whole = {key for key in kept if _own_name(key) in module.state_dict()}
    absent = sorted({*result.missing_keys, *(whole - adapter.tensors.keys())})
    beyond = sorted(result.unexpected_keys)
    if absent or beyond:
        said = f"the adapter lacks {shown(absent)}" if absent else ""
        more = f"it holds {shown(beyond)}, for which the base has no place" if beyond else ""
        raise EnvironmentMismatch(
            f"{adapter.name}: does not fit its base {base.name}: "
            f"{', and '.join(filter(None, (said, more)))}; give the model that the adapter was "
            f"trained on (model.base)"
        )
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    # What transformers itself notes where it loads adapters; it would save the adapter alone.
    merged._hf_peft_config_loaded = False
    return merged


def _own_name(key: str) -> str:
    return key.removeprefix(_PREFIX).replace(".modules_to_save.", ".").replace(".base_layer.", ".")


def _copy_files(adapter: Adapter, base: CheckpointFiles, folder: Path) -> None:
    """Copy tokenizer, image processor and steps after the encoder, the adapter's own first."""
    has_tokenizer = any((adapter.directory / name).is_file() for name in _TOKENIZER)
    for path, name in _beside(base.directory):
        if "/" in name or name in _OTHERS or not has_tokenizer:
            _copy(path, folder / name)
    for path, name in _beside(adapter.directory):
        _copy(path, folder / name)


def _beside(directory: Path) -> Iterator[tuple[Path, str]]:
    for path in files_read(directory):
        name = path.relative_to(directory).as_posix()
        is_weights = "/" not in name and path.suffix == ".safetensors"
        if name not in _WRITTEN and not is_weights:
            yield path, name


def _copy(path: Path, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, place)
