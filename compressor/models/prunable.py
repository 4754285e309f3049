"""What a configuration alone says of an encoder: whether units can go, and how many there are.

Free of torch, so that `compress validate` can tell that a pass does not fit a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Model types whose parts `architectures.py` knows.
PRUNABLE = frozenset(
    (
        "beit",
        "bert",
        "camembert",
        "deit",
        "dinov2",
        "distilbert",
        "electra",
        "mpnet",
        "roberta",
        "vit",
        "xlm-roberta",
    )
)
# Model types whose int8 file was compared with its simulation in PyTorch, and gave the same logits.
SIMULATED = PRUNABLE | {
    "albert",
    "convbert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "ernie",
    "modernbert",
    "roberta-prelayernorm",
    "roformer",
}
_REASONS = {
    "albert": "its layers share one set of weights",
    "deberta": "query, key and value are one matrix and relative positions enter every head",
    "deberta-v2": "its relative position projections are shared with query and key of every head",
    "modernbert": "query, key and value are one matrix (Wqkv) and its feed-forward is gated",
}
# What `why_not_prunable` reads of a configuration.
READ = ("model_type", "is_decoder", "add_cross_attention", "use_swiglu_ffn")
# One size under the names that families have for it.
_DEPTH = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
WIDTH = ("hidden_size", "dim", "d_model", "n_embd")


def why_not_prunable(config: Mapping[str, Any]) -> str | None:
    """Return why heads, neurons or layers cannot be removed, None where they can."""
    model_type = str(config.get("model_type"))
    if model_type not in PRUNABLE:
        return _REASONS.get(model_type, "where its heads and neurons sit is not known")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        return "it is configured as a decoder"
    if config.get("use_swiglu_ffn"):
        return "its feed-forward is gated (use_swiglu_ffn)"
    return None


def unprunable(config: Mapping[str, Any]) -> str | None:
    """Return the sentence that refuses to prune such a model, None where it can be pruned."""
    reason = why_not_prunable(config)
    return None if reason is None else refusal(str(config.get("model_type")), reason)


def refusal(model_type: str, reason: str) -> str:
    """Return the sentence that refuses to prune a model type for a reason."""
    return (
        f"model type '{model_type}' cannot be pruned structurally: {reason}; "
        f"supported model types are {', '.join(sorted(PRUNABLE))}"
    )


def not_simulated(config: Mapping[str, Any]) -> str | None:
    """Return the sentence that refuses to simulate the int8 file of such a model, else None."""
    model_type = str(config.get("model_type"))
    if model_type in SIMULATED:
        return None
    return (
        f"int8 is not simulated for model type '{model_type}': whether its file computes the same "
        f"was not compared; supported model types are {', '.join(sorted(SIMULATED))}, and "
        f"quantize_dynamic and quantize_static store int8 without training"
    )


def heads_must_stay(config: Mapping[str, Any]) -> bool:
    """Return whether each layer has a position bias as wide as its heads, outside the attention."""
    flags = ("use_relative_position_bias", "use_shared_relative_position_bias")
    has_flag = config.get("model_type") == "beit" and any(config.get(flag) for flag in flags)
    return config.get("model_type") == "mpnet" or has_flag


def depth_of(config: Mapping[str, Any]) -> int | None:
    """Return the number of layers, None where the file leaves it to the class."""
    return _size(config, _DEPTH)


def width_of(config: Mapping[str, Any]) -> int | None:
    """Return the hidden size, None where the file leaves it to the class."""
    return _size(config, WIDTH)


def with_depth(config: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """Return a copy that says another number of layers."""
    known = next((name for name in _DEPTH if name in config), _DEPTH[0])
    return {**config, known: depth}


def _size(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = next((config[name] for name in names if name in config), None)
    return found if type(found) is int else None
