"""Compares the keys of the weight files with what the model took: nothing missing, nothing left.

transformers loads what fits and tells of the rest in a table on standard error, from which some
kinds are left out. A weight that was not taken makes another model of the checkpoint, so every one
is an error here, but for a short list that no prediction depends on.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint_files import CheckpointFiles
from compressor.models.weight_files import shown
from compressor.runtime.sounds import READS_SAMPLES
from compressor.tasks.audio_vectors import OF_DECODER
from compressor.tasks.image_vectors import OF_TEXTS
from compressor.words import counted, verb_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_POOLER = re.compile(r"^(\w+\.)?pooler\.")
# Heads that encoders are pretrained or fine-tuned with, beside the encoder and never inside it.
_HEADS = re.compile(
    r"^(cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|generator_predictions|"
    r"generator_lm_head|discriminator_predictions|predictions|sop_classifier|lm_predictions|"
    r"mask_predictions|legacy_predictions|pred_layer|lm_loss|logits_proj|sequence_summary|"
    r"pre_classifier|classifier|score|qa_outputs|head|decoder)\."
)
# Of those, what only pretraining has: the class of a classifier reads none of them.
_PRETRAINING = re.compile(
    r"^(cls\.(predictions|seq_relationship)|lm_head|vocab_transform|vocab_layer_norm|"
    r"vocab_projector|generator_predictions|generator_lm_head|discriminator_predictions|"
    r"sop_classifier|lm_predictions|mask_predictions|legacy_predictions)\."
)
_WRAPPERS = {
    "module.": "DataParallel or DistributedDataParallel; save model.module",
    "model.": "a module that held the model, such as Lightning's; save its .model",
}
# What left-over keys say of where they come from, and what to do.
_HINTS = (
    (
        r"lora_|\bbase_layer\.|modules_to_save|original_module|^base_model\.model\.|\bia3_|"
        r"loha_|lokr_|hada_|adapter|prefix_tuning|prompt_",
        "they are an adapter's: merge it into the model (peft: model.merge_and_unload()) and save "
        "that with save_pretrained",
    ),
    (
        r"_(orig|mask)$",
        "they are what torch.nn.utils.prune leaves: call prune.remove for each of them and save "
        "the model again",
    ),
    (
        r"distance_embedding",
        "they are relative positions, which transformers 5 does not compute for this model type: "
        "give a checkpoint with absolute positions",
    ),
    (
        r"\.(SCB|absmax|quant_map|qweight|qzeros|scales?|zero_point|g_idx|weight_scale\w*|"
        r"input_scale|weight_packed|nested_\w+)$|quant_state",
        "they belong to quantized weights, and compression starts from float ones: give the "
        "checkpoint that it was quantized from",
    ),
)


@dataclass(frozen=True)
class Fit:
    """How the files and the model fit, by the model's names where it has them."""

    taken: Mapping[str, str]  # keys in the files -> the model's names
    missing: tuple[str, ...]  # of the model, in no file
    left_over: tuple[str, ...]  # keys in the files that the model has no place for
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # file's, model's
    twice: tuple[tuple[str, ...], ...] = ()  # keys in the files that mean one weight


@dataclass(frozen=True)
class _Look:
    """What decides whether a left-over key is harmless."""

    files: CheckpointFiles
    module: nn.Module
    reads_head: bool

    def tensor(self, key: str) -> Tensor:
        stored = self.files.tensors[key]
        with safe_open(stored.path, framework="pt") as content:
            found: Tensor = content.get_tensor(stored.key)
        return found


def _always(look: _Look, key: str) -> bool:  # noqa: ARG001 - one of several that decide
    return True


def _head_is_unread(look: _Look, key: str) -> bool:  # noqa: ARG001
    return not look.reads_head


def _is_beside_sounds(look: _Look, key: str) -> bool:  # noqa: ARG001
    return not look.reads_head and look.files.config["model_type"] in READS_SAMPLES


def _has_no_such_part(look: _Look, key: str) -> bool:
    """Return whether the model has nothing under the first name of `key`, so that none is read."""
    first = key.partition(".")[0] + "."
    return not any(name.startswith(first) for name in look.module.state_dict())


def _no_absolute_positions(look: _Look, key: str) -> bool:  # noqa: ARG001
    config = look.module.config
    is_relative = getattr(config, "position_biased_input", None) is False
    return is_relative or getattr(config, "position_embedding_type", None) == "rotary"


def _counts_up(look: _Look, key: str) -> bool:
    found = look.tensor(key).flatten()
    return bool(torch.equal(found.long(), torch.arange(len(found))))


def _is_zero(look: _Look, key: str) -> bool:
    return not look.tensor(key).any()


def _is_a_buffer(look: _Look, key: str) -> bool:
    """Return whether the model has a buffer of that name and these values, somewhere."""
    stored, name = look.tensor(key), key.rpartition(".")[2]
    return any(
        own.shape == stored.shape and torch.allclose(own.double(), stored.double(), rtol=1e-3)
        for other, own in look.module.named_buffers()
        if other.rpartition(".")[2] == name
    )


def _is_causal_mask(look: _Look, key: str) -> bool:
    shape = look.files.tensors[key].shape
    if len(shape) != 4:
        return shape == () and key.endswith("masked_bias")
    found = look.tensor(key).bool()
    return bool(torch.equal(found, torch.ones_like(found).tril()))


# Left-over keys that no prediction depends on: the pattern, whether it holds, and the reason.
_HARMLESS: tuple[tuple[str, Callable[[_Look, str], bool], str], ...] = (
    (r"(^|\.)position_ids$", _counts_up, "a buffer of 0, 1, 2 and so on, which the model makes"),
    (r"(^|\.)token_type_ids$", _is_zero, "a buffer of zeros, which the model makes"),
    (
        r"(^|\.)num_batches_tracked$",
        _always,
        "counts steps of training, for training",
    ),
    (r"(^|\.)(original_)?inv_freq$", _is_a_buffer, "rotary frequencies, which the model computes"),
    (r"(^|\.)relative_position_index$", _is_a_buffer, "of a window, which the model computes"),
    (r"(^|\.)(cross)?att(n|ention)\.(masked_)?bias$", _is_causal_mask, "the model makes the mask"),
    (
        r"^(\w+\.)?pooler\.dense\.(weight|bias)$",
        _always,
        "a layer of pretraining that the class for this task does not have",
    ),
    (
        r"^(projector|project_hid|project_q|quantizer)\.|^layer_weights$",
        _is_beside_sounds,
        "a head beside an encoder of sound, and only that is read",
    ),
    (OF_DECODER.pattern, _is_beside_sounds, "Whisper's decoder, and only the encoder is read"),
    (_POOLER.pattern, _head_is_unread, "vectors are made of the states before it"),
    (_HEADS.pattern, _head_is_unread, "another head beside the encoder, and only that is read"),
    (
        OF_TEXTS.pattern,
        _has_no_such_part,
        "the encoder of texts in a pair, of which the one of images alone is read",
    ),
    (
        _PRETRAINING.pattern,
        _has_no_such_part,
        "a head of pretraining that was kept beside the one for this task",
    ),
    (
        r"^(loss|criterion)\w*\.(pos_)?weight$",
        _has_no_such_part,
        "weighs the classes in the loss, for training",
    ),
    (
        r"(^|\.)embeddings\.position_embeddings\.weight$",
        _no_absolute_positions,
        "the config says that positions are relative or rotary alone",
    ),
)


def fit_of_loaded(files: CheckpointFiles, module: PreTrainedModel, info: Mapping[str, Any]) -> Fit:
    """Return how a module that transformers loaded fits the files; `info` is what it said.

    What was left over is found from the keys of the files by transformers' own renaming, because
    it leaves some kinds out of what it says.
    """
    conversions = get_model_conversion_mapping(module)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    own = module.state_dict()
    prefix = module.base_model_prefix
    taken: dict[str, str] = {}
    left_over: dict[str, str] = {}
    sources: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(files.tensors):
        name, pattern = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, pattern = rename_source_key(key, [], [], prefix, own)
        if name not in own:
            left_over[key] = name
            continue
        taken[key] = name
        if pattern is None:  # one that is put together of several has several keys
            sources[name].append(key)
    beyond = sorted(set(info["unexpected_keys"]) - set(left_over.values()))
    return Fit(
        taken=taken,
        missing=tuple(sorted(info["missing_keys"])),
        left_over=(*left_over, *beyond),
        wrong_shape=tuple(
            (str(name), tuple(stored), tuple(expected))
            for name, stored, expected in sorted(info["mismatched_keys"])
        ),
        twice=tuple(tuple(keys) for keys in sources.values() if len(keys) > 1),
    )


def fit_of_state(files: CheckpointFiles, module: nn.Module) -> Fit:
    """Return how a module fits files with exactly its own names, as this package saves them.

    A weight that the module has under several names is in a file under one of them.
    """
    own, stored = module.state_dict(), files.tensors
    there = {(own[name].data_ptr(), own[name].shape) for name in own.keys() & stored.keys()}
    return Fit(
        taken={name: name for name in own.keys() & stored.keys()},
        missing=tuple(
            sorted(
                name
                for name in own.keys() - stored.keys()
                if (own[name].data_ptr(), own[name].shape) not in there
            )
        ),
        left_over=tuple(sorted(stored.keys() - own.keys())),
        wrong_shape=tuple(
            (name, stored[name].shape, tuple(own[name].shape))
            for name in sorted(own.keys() & stored.keys())
            if stored[name].shape != tuple(own[name].shape)
        ),
    )


def require_fit(
    files: CheckpointFiles,
    module: PreTrainedModel,
    fit: Fit,
    *,
    reads_head: bool,
    described_by: str,
) -> None:
    """Raise `EnvironmentMismatch` that names every weight which is missing, left over or misfit.

    `reads_head` says that the weights of a head are the checkpoint's; without it, only those of
    the encoder have to be whole. `described_by` is the file that says the shape of the model.
    """
    look = _Look(files, module, reads_head)
    left_over = [key for key in fit.left_over if not _is_harmless(look, key)]
    missing = [name for name in fit.missing if reads_head or not _POOLER.search(name)]
    if fit.wrong_shape:
        raise _wrong_shapes(files, fit, described_by)
    if left_over or missing:
        raise _unmatched(files, module, missing, left_over)
    if fit.twice:
        raise EnvironmentMismatch(
            f"{files.name}: the weights hold one tensor under several keys "
            f"({'; '.join(shown(keys) for keys in fit.twice[:3])}), and only one of them is taken; "
            f"remove the others"
        )
    if files.config.get("pruned_heads"):
        raise EnvironmentMismatch(
            f"{files.name}: config.json says that heads are pruned (pruned_heads), but the weights "
            f"have all of them; remove the key, or take both files from the same save"
        )
    _require_floats(files, module, fit)


def require_finite(files: CheckpointFiles, module: nn.Module) -> None:
    """Raise `EnvironmentMismatch` that names the weights which are NaN or infinite."""
    found = {
        name: int((~value.isfinite()).sum())
        for name, value in module.state_dict().items()
        if value.is_floating_point() and not value.isfinite().all()
    }
    if found:
        broken = sum(found.values())
        raise EnvironmentMismatch(
            f"{files.name}: {counted(broken, 'weight')} {verb_for(broken, 'is', 'are')} NaN or "
            f"infinite, in {shown(list(found))}; the training that made them went wrong, so take "
            f"an earlier checkpoint of it"
        )


def _is_harmless(look: _Look, key: str) -> bool:
    return key in look.files.tensors and any(
        re.search(pattern, key) and holds(look, key) for pattern, holds, _ in _HARMLESS
    )


def _require_floats(files: CheckpointFiles, module: nn.Module, fit: Fit) -> None:
    """Raise where a weight of the model is stored as integers, which mean nothing by themselves."""
    own = module.state_dict()
    odd = [
        key
        for key, name in fit.taken.items()
        if own[name].is_floating_point() and not files.tensors[key].is_float
    ]
    if odd:
        raise EnvironmentMismatch(
            f"{files.name}: {shown(odd)} of the weights hold {files.tensors[odd[0]].dtype} where "
            f"the model has float numbers, so they are quantized, and compression starts from "
            f"float weights; give the checkpoint that it was quantized from"
        )


def _wrong_shapes(files: CheckpointFiles, fit: Fit, described_by: str) -> EnvironmentMismatch:
    most = 5
    listed = "; ".join(
        f"'{name}' is {_shape(stored)} in the file and {_shape(expected)} by {described_by}"
        for name, stored, expected in fit.wrong_shape[:most]
    )
    more = len(fit.wrong_shape) - most
    advice = "take both from the same save"
    if files.config.get("pruned_heads"):
        advice = (
            "its heads were pruned by transformers 4 (pruned_heads), and transformers 5 cannot "
            "load that; give the checkpoint before it was pruned"
        )
    elif all(_counts_labels(files, name, expected) for name, _, expected in fit.wrong_shape):
        advice = (
            f"config.json names {counted(len(files.labels), 'label')} (id2label, num_labels) and "
            f"the head in the file has another number; correct config.json"
        )
    return EnvironmentMismatch(
        f"{files.name}: the weights do not fit {described_by}: {listed}"
        f"{f'; and {more} more' if more > 0 else ''}; {advice}"
    )


def _counts_labels(files: CheckpointFiles, name: str, expected: Sequence[int]) -> bool:
    """Return whether a weight is of a head with a row for each label of config.json."""
    return _HEADS.search(name) is not None and expected[:1] == (len(files.labels),)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _unmatched(
    files: CheckpointFiles,
    module: PreTrainedModel,
    missing: Sequence[str],
    left_over: Sequence[str],
) -> EnvironmentMismatch:
    own = set(module.state_dict())
    told = next((hint for kind, hint in _HINTS if any(re.search(kind, k) for k in left_over)), None)
    prefix = _prefix(left_over, own)
    if told is None and prefix is not None:
        # Of several wrappers the innermost, which is named last, held the model.
        made = next((text for end, text in _WRAPPERS.items() if prefix.endswith(end)), None)
        return EnvironmentMismatch(
            f"{files.name}: the keys of the weights begin with '{prefix}', as in "
            f"{shown(left_over, most=1)}; "
            f"{f'that is left by {made}' if made else 'save the model inside'} with "
            f"save_pretrained, or remove '{prefix}' from the keys"
        )
    parts = []
    if left_over:
        parts.append(f"the weights hold {shown(left_over)}, for which the model has no place")
    if missing:
        parts.append(f"the weights lack {shown(missing)}")
    advice = told or _advice(files, module, missing, left_over)
    return EnvironmentMismatch(f"{files.name}: {', and '.join(parts)}; {advice}")


def _advice(
    files: CheckpointFiles,
    module: PreTrainedModel,
    missing: Sequence[str],
    left_over: Sequence[str],
) -> str:
    inside = f"{module.base_model_prefix}."
    if not left_over and not any(name.startswith(inside) for name in missing):
        return "a checkpoint without its fine-tuned head must be fine-tuned first"
    if not left_over:
        return "config.json and weights are of different models; take both from the same save"
    depths = _depths(left_over, set(module.state_dict()))
    if depths is not None and not missing:
        return (
            f"config.json describes {counted(depths[0], 'layer')} and the weights hold "
            f"{depths[1]}; correct the number of layers in config.json, or take both from the same "
            f"save"
        )
    return (
        f"without them it would be another model than the one that was saved, so give a checkpoint "
        f"as transformers saves model type '{files.config['model_type']}', with its config.json"
    )


def _prefix(left_over: Sequence[str], own: set[str]) -> str | None:
    """Return what stands before the model's own names in most of the left-over keys."""
    counts: Counter[str] = Counter()
    for key in left_over:
        parts = key.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in own:
                counts[".".join(parts[:cut]) + "."] += 1
                break
    if not counts:
        return None
    prefix, count = counts.most_common(1)[0]
    return prefix if 2 * count > len(left_over) else None


def _depths(left_over: Sequence[str], own: set[str]) -> tuple[int, int] | None:
    """Return how many layers the model has and the weights hold, where the rest is further ones."""
    known = {re.sub(r"\.\d+\.", ".#.", name, count=1) for name in own}
    prefixes = {name.partition(".")[0] + "." for name in own} | {""}
    found = []
    for key in left_over:
        number = re.search(r"\.(\d+)\.", key)
        general = re.sub(r"\.\d+\.", ".#.", key, count=1)
        if number is None or not any(prefix + general in known for prefix in prefixes):
            return None
        found.append(int(number[1]))
    numbers = [int(match[1]) for name in own if (match := re.search(r"\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1, max(found) + 1
