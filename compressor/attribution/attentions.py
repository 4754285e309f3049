"""Attention maps of PyTorch models: which tokens each token takes its state from.

They are no attributions: a high attention says where a state comes from, not what a prediction
rests on (Jain & Wallace 2019, arXiv:1902.10186). They show what pruning heads did.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.models.families.layers import find_encoder
from compressor.models.families.prunable import UnsupportedArchitecture
from compressor.models.torch_model import TorchModel
from compressor.tasks import Example

MOST_TOKENS = 32  # of an example whose maps are shown


@dataclass(frozen=True)
class LayerAttention:
    """The attention of one layer: `weights` has shape `(num_heads, num_tokens, num_tokens)`.

    A layer whose heads are all gone has none, and `num_heads` 0.
    """

    layer: int
    num_heads: int
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMaps:
    """The maps of one example: its tokens, and the layers from the first to the last."""

    tokens: tuple[str, ...]
    layers: tuple[LayerAttention, ...]


def attention_maps(model: TorchModel, example: Example) -> AttentionMaps | None:
    """Return the attention of every layer to one example, computed in the plain ("eager") way.

    None for an example of more than 32 tokens, and where a model gives no maps.
    """
    task, module = model.task, model.module
    batch = task.encode(model.preprocessor, [example])
    ids = batch.get("input_ids")
    if ids is None or len(ids) != 1 or ids.shape[1] > MOST_TOKENS:
        return None
    inputs = {name: torch.from_numpy(value).to(model.device) for name, value in batch.items()}
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    try:
        module.eval()
        with torch.no_grad():
            found = module(**inputs, output_attentions=True).attentions
    finally:
        module.set_attn_implementation(before)
    maps = [item[0].float().cpu().numpy() for item in found or () if item is not None]
    names = tuple(map(str, model.preprocessor.convert_ids_to_tokens(ids[0].tolist())))
    heads = _heads_by_layer(model) or [len(item) for item in maps]
    if not maps or sum(count > 0 for count in heads) != len(maps):
        return None
    rest = iter(maps)
    empty = np.zeros((0, len(names), len(names)), dtype=np.float32)
    return AttentionMaps(
        names,
        tuple(
            LayerAttention(layer, count, next(rest) if count else empty)
            for layer, count in enumerate(heads)
        ),
    )


def _heads_by_layer(model: TorchModel) -> list[int]:
    """Return how many heads each layer has, 0 where all are gone: such a layer gives no map.

    Empty for an architecture of which nothing can be pruned.
    """
    try:
        return [layer.num_heads for layer in find_encoder(model.module).layers]
    except UnsupportedArchitecture:
        return []
