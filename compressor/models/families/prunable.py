"""What a configuration alone says of an encoder: whether units can go, and how many there are.

Free of torch, so that `compress validate` can tell that a pass does not fit a checkpoint. A
configuration is the content of config.json, or what transformers made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from compressor.errors import StepFailed
from compressor.models.families import FAMILIES, EncoderParts, family_of
from compressor.models.families.base import setting

if TYPE_CHECKING:
    from compressor.models.families.base import Config

# One size under the names that families have for it.
_DEPTH = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
WIDTH = ("hidden_size", "dim", "d_model", "n_embd")


class UnsupportedArchitecture(StepFailed):
    """Heads, neurons or layers of this model cannot be removed; `reason` says why."""

    def __init__(self, model_type: str, reason: str, sentence: str = "") -> None:
        self.model_type = model_type
        self.reason = reason
        super().__init__(sentence or refusal(model_type, reason))


def parts_of(config: Config) -> EncoderParts:
    """Return where heads, neurons and layers sit; raises `UnsupportedArchitecture`."""
    found = parts_or_reason(config)
    if isinstance(found, str):
        raise UnsupportedArchitecture(str(setting(config, "model_type")), found)
    return found


def require_prunable_heads(config: Config) -> None:
    """Raise `UnsupportedArchitecture` when heads cannot be removed, although neurons can."""
    if (reason := why_heads_stay(config)) is not None:
        model_type = str(setting(config, "model_type"))
        raise UnsupportedArchitecture(model_type, reason, heads_refusal(model_type, reason))


def parts_or_reason(config: Config) -> EncoderParts | str:
    """Return where heads, neurons and layers sit, or why they cannot be removed."""
    parts = family_of(setting(config, "model_type")).encoder
    if isinstance(parts, str):
        return parts
    if setting(config, "is_decoder") or setting(config, "add_cross_attention"):
        return "it is configured as a decoder"
    if parts.key_heads is not None:
        heads, keys = setting(config, "num_attention_heads"), setting(config, parts.key_heads)
        if type(heads) is int and type(keys) is int and (keys < 1 or heads % keys):
            return f"its {heads} query heads cannot be shared out among {keys} keys"
    if parts.repeated is not None and setting(config, "num_hidden_groups") not in (None, 1):
        return "its layers are in several groups, each with weights of its own (num_hidden_groups)"
    named = setting(config, "architectures")
    for name in named if isinstance(named, list | tuple) else ():
        if parts.classes_with_decoder and str(name).endswith(parts.classes_with_decoder):
            return f"{name} holds a decoder too, and one configuration says how wide both are"
    if parts.gated_by is not None and _is_gated(setting(config, parts.gated_by)):
        if parts.gated_feed_forward is None:
            return f"its feed-forward is gated ({parts.gated_by})"
        parts = replace(parts, feed_forward=parts.gated_feed_forward)
    if (name := next((it for it in parts.refused_with if setting(config, it)), None)) is not None:
        return f"it is configured with {name}"
    name = parts.first_layer_stays_with
    if name is not None and not _is_above_0(setting(config, name)):
        parts = replace(parts, first_layer_stays=None)
    if parts.norms_first_if is not None:
        return replace(parts, norms_first=bool(setting(config, parts.norms_first_if)))
    return parts


def _is_above_0(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _is_gated(value: object) -> bool:
    """Return what the setting says: yes or no, or the name of a function such as gated-gelu."""
    return value.startswith("gated") if isinstance(value, str) else bool(value)


def unprunable(config: Config) -> str | None:
    """Return the sentence that refuses to prune such a model, None where it can be pruned."""
    found = parts_or_reason(config)
    return refusal(str(setting(config, "model_type")), found) if isinstance(found, str) else None


def refusal(model_type: str, reason: str) -> str:
    """Return the sentence that refuses to prune a model type for a reason."""
    known = (name for name, family in FAMILIES.items() if isinstance(family.encoder, EncoderParts))
    return (
        f"model type '{model_type}' cannot be pruned structurally: {reason}; "
        f"supported model types are {', '.join(sorted(known))}"
    )


def unknown_attention(setting_name: str, model_type: str, reason: str) -> str:
    """Return why a training setting cannot compare attention of a model type."""
    return (
        f"where the attention of model type '{model_type}' lies is not known ({reason}); set "
        f"{setting_name} to 0"
    )


def not_simulated(config: Config) -> str | None:
    """Return the sentence that refuses to simulate the int8 file of such a model, else None."""
    model_type = setting(config, "model_type")
    if family_of(model_type).int8_simulated:
        return None
    known = (name for name, family in FAMILIES.items() if family.int8_simulated)
    return (
        f"int8 is not simulated for model type '{model_type}': whether its file computes the same "
        f"was not compared; supported model types are {', '.join(sorted(known))}, and "
        f"quantize_dynamic and quantize_static store int8 without training"
    )


def why_heads_stay(config: Config) -> str | None:
    """Return why heads cannot go from a model whose neurons can; None where they can."""
    parts = parts_or_reason(config)
    fixed = None if isinstance(parts, str) else parts.fixed_heads
    return fixed.reason if fixed is not None and setting(config, fixed.asked_by) else None


def why_no_latency(config: Config) -> str | None:
    """Return why what sub-layers of a model take cannot be measured; None where it can."""
    parts = parts_or_reason(config)
    if isinstance(parts, str):
        return None
    kind = ""
    if parts.attention.relative is not None:
        kind = "with relative positions"
    elif parts.key_heads is not None:
        heads, keys = setting(config, "num_attention_heads"), setting(config, parts.key_heads)
        kind = "" if keys in (None, heads) else "whose queries share keys"
    if not kind:
        return None
    return (
        f"what attention {kind} takes is not measured (model type "
        f"'{setting(config, 'model_type')}'); set target to flops or parameters"
    )


def why_no_layers_apart(config: Config) -> str | None:
    """Return why layers cannot be looked at one by one although units can go; None: they can."""
    parts = parts_or_reason(config)
    if isinstance(parts, str) or parts.repeated is None:
        return None
    return "its layers share one set of weights"


def no_reconstruction(config: Config) -> str | None:
    """Return the sentence that refuses method reconstruction, None where it is possible."""
    parts = parts_or_reason(config)
    if isinstance(parts, str) or not parts.normalizes_outputs:
        return None
    return (
        f"reconstruction fits what a sub-layer adds, and of model type "
        f"'{setting(config, 'model_type')}' that is normalised once more before it is added; "
        f"set method to scores"
    )


def why_first_layer_stays(config: Config) -> str | None:
    """Return why layer 0 cannot go from a model whose other layers can; None where it can."""
    parts = parts_or_reason(config)
    return None if isinstance(parts, str) else parts.first_layer_stays


def no_fewer_layers(config: Config) -> str | None:
    """Return the sentence that refuses to drop layers of a model, None where some can go."""
    parts = parts_or_reason(config)
    if (
        isinstance(parts, str)
        or parts.sums_layers is None
        or not setting(config, parts.sums_layers)
    ):
        return None
    return (
        f"no layer of model type '{setting(config, 'model_type')}' can go: its head sums what all "
        f"layers give, by a weight for each ({parts.sums_layers}); remove heads and neurons alone"
    )


def require_fewer_layers(config: Config) -> None:
    """Raise `UnsupportedArchitecture` where no layer of a model can go."""
    if (sentence := no_fewer_layers(config)) is not None:
        reason = "its head sums what all layers give"
        raise UnsupportedArchitecture(str(setting(config, "model_type")), reason, sentence)


def heads_refusal(model_type: str, reason: str) -> str:
    """Return the sentence that refuses to remove heads of a model type for a reason."""
    return f"heads of model type '{model_type}' cannot be removed: {reason}; set head_ratio to 0"


def depth_of(config: Mapping[str, object]) -> int | None:
    """Return the number of layers, None where the file leaves it to the class."""
    return _size(config, _DEPTH)


def width_of(config: Mapping[str, object]) -> int | None:
    """Return the hidden size, None where the file leaves it to the class."""
    return _size(config, WIDTH)


def with_depth(config: Mapping[str, object], depth: int) -> dict[str, object]:
    """Return a copy that says another number of layers."""
    known = next((name for name in _DEPTH if name in config), _DEPTH[0])
    return {**config, known: depth}


def first_position(config: Mapping[str, object]) -> int:
    """Return how many rows of the table of positions no token reads, as far as that is known."""
    family = family_of(config.get("model_type"))
    first, kind = family.first_position, config.get("position_embedding_type", "absolute")
    if isinstance(first, int):
        return first
    if kind in family.position_types:
        return 0  # there is no table
    padding = config.get("pad_token_id", 1)
    return padding + 1 if type(padding) is int else 0


def _size(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    found = next((config[name] for name in names if name in config), None)
    return found if type(found) is int else None
