"""Which learning rate each layer has where they fall from the head to the embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from compressor.errors import StepFailed
from compressor.training.settings import TrainingSettings


def groups_by_layer(
    groups: Iterable[Mapping[str, Any]], module: nn.Module, settings: TrainingSettings
) -> list[dict[str, Any]]:
    """Return an optimizer's groups of parameters cut by learning rate, the highest first.

    Raises `StepFailed` as `layer_rates` does.
    """
    rates = layer_rates(module, settings.layer_decay)
    cut = [
        {
            "params": [value for value in group["params"] if rates[id(value)] == rate],
            "weight_decay": group["weight_decay"],
            "lr": settings.learning_rate * rate,
        }
        for rate in sorted(set(rates.values()), reverse=True)
        for group in groups
    ]
    return [group for group in cut if group["params"]]


def layer_rates(module: nn.Module, decay: float) -> dict[int, float]:
    """Return the factor on the learning rate of every parameter of `module`, by its `id`.

    What lies behind the layers has 1, the last of L layers `decay`, the first `decay ** L`, and the
    embeddings with all that a model names before its layers, such as the convolutions that read
    sounds, `decay ** (L + 1)`.

    Raises `StepFailed` when the layers are not found: there are none, or they share weights.
    Ref: Clark et al. 2020, arXiv:2003.10555, appendix A; counted as in Bao et al. 2022,
    arXiv:2106.08254.
    """
    prefix, depth = _layers(module)
    tables = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    rates: dict[int, float] = {}
    before = True
    for name, parameter in module.named_parameters():
        if name.startswith(prefix):
            before = False
            below = depth - int(name.removeprefix(prefix).partition(".")[0])
        else:
            is_below = before or "embeddings" in name.split(".") or id(parameter) in tables
            below = depth + 1 if is_below else 0
        rates[id(parameter)] = decay**below
    return rates


def _layers(module: nn.Module) -> tuple[str, int]:
    """Return what the names of parameters in layers begin with, and the number of layers."""
    config = getattr(module, "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    found = [
        (sum(value.numel() for value in child.parameters()), name, len(child))
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == depth and depth > 0
    ]
    if not found:
        raise StepFailed(
            f"layer_decay: no list of {depth or 'its'} layers is found in a model of type "
            f"'{getattr(config, 'model_type', 'unknown')}'; leave the setting out"
        )
    _, name, length = max(found)  # there may be as many convolutions that read sounds
    return f"{name}.", length
