"""Which single weights to keep, and holding the others at zero while training goes on.

A mask is boolean, has the shape of its weight, and is True where the weight stays. Scores have the
shape of their weight too: the lowest go.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import transformers
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.structure import input_embeddings

GROUP = 4  # neighbouring inputs of a matrix in pattern 2:4, of which half go


def magnitude_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Return the mask that drops the smallest weights: `round(sparsity * weight.numel())` of them.

    Of equal magnitudes the earlier in memory order goes first, so the share is exact and the same
    on every run. `sparsity` is a fraction in [0, 1].

    Raises `ValueError` for a sparsity outside that range or weights that are not finite.
    Ref: Han et al. 2015, arXiv:1506.02626.
    """
    return global_magnitude_masks({"weight": weight}, sparsity)["weight"]


def global_magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the masks that drop the smallest weights of all tensors together.

    Exactly `round(sparsity * n)` of the `n` weights go, so one tensor may lose more than another.
    Of equal magnitudes the earlier goes first: by tensor, then in memory order.

    Raises `StepFailed` like `magnitude_mask`.
    """
    return global_masks(magnitudes(weights), sparsity)


def layer_magnitude_masks(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return `magnitude_mask` of each tensor, so that every one gets the same sparsity."""
    return layer_masks(magnitudes(weights), sparsity)


def magnitudes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return absolute values; raises `StepFailed` that names weights which are not finite."""
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise StepFailed(f"{name} holds weights that are not finite and cannot be ranked")
    return {name: weight.detach().abs() for name, weight in weights.items()}


def global_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the masks that drop the lowest scores of all tensors together, the earlier of equals.

    Raises `ValueError` for a sparsity that is no fraction from 0 to 1.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is a fraction from 0 to 1, got {sparsity}")
    if not scores:
        return {}
    flat = torch.cat([score.flatten() for score in scores.values()])
    keep = ~_smallest(flat, round(sparsity * flat.numel()))
    parts = torch.split(keep, [score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def layer_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the masks that drop the same share of each tensor."""
    return {name: global_masks({name: score}, sparsity)[name] for name, score in scores.items()}


def row_masks(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Return the masks that drop the same share of the weights of each output of each tensor.

    Of `n` inputs `round(sparsity * n)` go.

    Ref: Sun et al. 2023, arXiv:2306.11695, section 3 (comparison groups).
    """
    found = {}
    for name, score in scores.items():
        rows = score.flatten(1)  # (outputs, inputs)
        found[name] = _without_lowest(rows, round(sparsity * rows.shape[1])).reshape(score.shape)
    return found


def two_of_four_masks(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks that keep the two highest of every four neighbouring inputs of an output.

    Each tensor has shape `(outputs, inputs)`, and four divides its inputs.

    Ref: Mishra et al. 2021, arXiv:2104.08378, section 3 (2:4 of sparse tensor cores).
    """
    return {
        name: _without_lowest(score.reshape(-1, GROUP), GROUP // 2).reshape(score.shape)
        for name, score in scores.items()
    }


class MaskedParameters:
    """Parameters of a model with masks on them: call `hold` after each optimizer step."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = dict(parameters)
        self.masks: dict[str, Tensor] = {}

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Replace the masks, by parameter name, and put what they drop to zero."""
        self.masks = dict(masks)
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Put dropped weights back to exactly zero."""
        for name, mask in self.masks.items():
            weight = self.parameters[name]
            if mask.device != weight.device:  # the model moved since the mask was made
                mask = self.masks[name] = mask.to(weight.device)
            weight.masked_fill_(~mask, 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks, so that training can be stopped and go on."""
        return dict(self.masks)

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Hold these masks from now on."""
        self.set_masks(state_dict)

    def zeros(self) -> tuple[int, int]:
        """Return how many of the covered weights are zero, and how many there are."""
        total = sum(weight.numel() for weight in self.parameters.values())
        nonzero = sum(int(torch.count_nonzero(weight)) for weight in self.parameters.values())
        return total - nonzero, total


def prunable_weights(
    module: transformers.PreTrainedModel, *, include_embeddings: bool
) -> dict[str, nn.Parameter]:
    """Return the weights of the encoder's linear and convolution layers, by parameter name.

    The classification head is not among them. `include_embeddings` adds the embedding tables and,
    in vision models, the projection of image patches.

    Raises `StepFailed` when the model has no part that is the encoder.
    """
    chosen = {
        id(layer.weight) for layer in prunable_layers(module, include_embeddings=include_embeddings)
    }
    return {name: value for name, value in module.named_parameters() if id(value) in chosen}


def prunable_layers(
    module: transformers.PreTrainedModel, *, include_embeddings: bool
) -> list[nn.Module]:
    """Return the layers that hold `prunable_weights`; raises as that does."""
    encoder = module.base_model
    if encoder is module:
        raise StepFailed(
            f"a model of type '{module.config.model_type}' does not tell its encoder from its "
            f"head, so its head cannot be left out; unstructured pruning does not support it"
        )
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *([nn.Embedding] * include_embeddings))
    reads_inputs = None if include_embeddings else input_embeddings(module)
    patches = set() if reads_inputs is None else set(reads_inputs.modules())
    return [
        child for child in encoder.modules() if isinstance(child, kinds) and child not in patches
    ]


def _smallest(values: Tensor, count: int) -> Tensor:
    """Mark exactly `count` smallest entries of a vector, the earlier first where they are equal."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = values.kthvalue(count).values
    chosen = values < threshold
    missing = count - int(chosen.sum())
    chosen[(values == threshold).nonzero()[:missing, 0]] = True
    return chosen


def _without_lowest(rows: Tensor, count: int) -> Tensor:
    """Return what is not among the `count` lowest of its row, the earlier of equals first."""
    keep = torch.ones_like(rows, dtype=torch.bool)
    keep.scatter_(1, rows.argsort(dim=1, stable=True)[:, :count], value=False)
    return keep
