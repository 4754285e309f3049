"""Finds the features that share one index, decides which of them stay, and takes out the others.

The residual stream is one such space: embeddings, norms and projections of all layers have it in
common. The inner layer of a pooler or of a classification head is another, which transformers makes
as wide as the stream. Which axis belongs to which is read from torch-pruning's dependency graph, so
a model that couples the stream with anything else is found out before it is damaged.

The graph is only asked. torch-pruning 1.6.1 takes features out of a LayerNorm in the order of a
Python set, which is not ascending where few of many stay, and it misses the second half of what
DINOv2's classifier reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.models.families.layers import (
    UnsupportedArchitecture,
    encoder_layers,
    layer_list,
    parts_of,
)
from compressor.models.structure import dense_shape
from compressor.models.width import Axis, cut, record_kept, set_hidden_size, width_axes
from compressor.passes.prune_structured.fisher import token_mask
from compressor.passes.prune_structured.unit_removal import DependencyGraph

Importance = Literal["random", "magnitude", "activation", "variance", "reconstruction"]

_DAMPING = 1e-3  # of the mean diagonal of a reader's covariance


@dataclass(frozen=True)
class Space:
    """Features that share one index from 0 to `size - 1`, and all axes of parameters along them."""

    size: int
    axes: tuple[Axis, ...]

    def readers(self, module: Any) -> dict[str, nn.Linear]:
        """Return the linear layers that read this space, by name."""
        found: dict[str, nn.Linear] = {}
        for axis in self.axes:
            path, _, name = axis.parameter.rpartition(".")
            owner = module.get_submodule(path)
            if isinstance(owner, nn.Linear) and name == "weight" and axis.dim == 1:
                found[path] = owner
        return found


def spaces_of(module: Any) -> list[Space]:
    """Return the residual stream, then the inner layer of the head, where there is one.

    Raises `UnsupportedArchitecture` when features of the stream cannot be removed.
    """
    left = list(width_axes(module))
    graph = DependencyGraph(module)
    # A norm is there in every layer, whatever pruning took; it reads and writes the stream.
    norm = next(part for part in layer_list(module)[0].modules() if isinstance(part, nn.LayerNorm))
    linears = [part for part in module.modules() if isinstance(part, nn.Linear)]
    found: list[tuple[Axis, ...]] = []
    for root in (norm, *linears):
        coupled = graph.coupled_axes(root)
        own = tuple(axis for axis in left if (axis.parameter, axis.dim) in (coupled or ()))
        if not own:
            continue
        beyond = (coupled or set()) - {(axis.parameter, axis.dim) for axis in own}
        if beyond:
            raise UnsupportedArchitecture(
                module.config.model_type,
                f"removing features of its residual stream would also change "
                f"{', '.join(sorted(name for name, _ in beyond))}",
            )
        left = [axis for axis in left if axis not in own]
        found.append(own)
    # What no input reaches, such as the token of masked images, is as wide as the stream.
    found[0] += tuple(left)
    return [Space(module.config.hidden_size, axes) for axes in found]


def check_width(module: Any, width: int) -> None:
    """Raise `StepFailed` when no model of this architecture can be `width` wide."""
    size: int = module.config.hidden_size
    if not 0 < width < size:
        raise StepFailed(
            f"width: the model is {size} wide, so a narrower one has 1 to {size - 1}, got {width}"
        )
    embedding_size = getattr(module.config, "embedding_size", size)
    if embedding_size == width and embedding_size != size:
        raise StepFailed(
            f"width: {width} is this model's embedding_size, where its configuration leaves out "
            f"the projection of the embeddings; take another width"
        )
    config = copy.deepcopy(module.config)
    set_hidden_size(config, width)
    allowed = dense_shape(config, parts_of(module)).layers[0].ffn_neurons
    neurons = max(layer.num_neurons for layer in encoder_layers(module))
    if neurons > allowed:
        raise StepFailed(
            f"width: a configuration that is {width} wide describes at most {allowed} "
            f"feed-forward neurons (mlp_ratio), this model has {neurons}; prune the width before "
            f"the heads, or prune the neurons first"
        )


def require_finite_weights(module: Any) -> None:
    """Raise `StepFailed` naming a parameter that is not finite."""
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise StepFailed(
                f"'{name}' holds weights that are not finite; check the checkpoint or the training "
                f"before this step"
            )


def cut_spaces(
    module: Any, spaces: Sequence[Space], kept: Sequence[Sequence[int]], width: int
) -> None:
    """Keep of each space the features `kept`, `width` of each, ascending, in place."""
    for space, features in zip(spaces, kept, strict=True):
        if list(features) != sorted(set(features)) or len(features) != width:
            raise ValueError(f"features to keep must be {width} ascending indices, got {features}")
        cut(module, space.axes, features, space.size)
    record_kept(module.config, kept[0])
    set_hidden_size(module.config, width)


def choose_features(
    module: Any,
    spaces: Sequence[Space],
    width: int,
    importance: Importance,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    seed: int = 0,
) -> list[list[int]]:
    """Return for each space the `width` features that stay, ascending.

    `random` and `magnitude` (the norm of all weights along a feature, each parameter's divided by
    its own) read no `batches`. `activation` and `variance` are mean squares of what linear layers
    read, about zero and about the mean, averaged over layers after dividing by their own mean.
    `reconstruction` removes one feature after another, each time the one that costs the readers'
    outputs least after the best linear correction from the features that are left.

    Raises `StepFailed` when something is not finite.
    """
    if importance == "random":
        generator = torch.Generator().manual_seed(seed)
        scores = [torch.rand(space.size, generator=generator) for space in spaces]
    elif importance == "magnitude":
        scores = [_magnitudes(module, space) for space in spaces]
    else:
        moments = reader_moments(module, spaces, batches)
        if importance == "reconstruction":
            return [_eliminate(module, space, moments, width) for space in spaces]
        scores = [_activity(module, space, moments, importance) for space in spaces]
    for score in scores:
        _require_finite(score)
    return [sorted(score.argsort(stable=True)[-width:].tolist()) for score in scores]


@dataclass
class Moments:
    """Sums over what one linear layer reads, float64; padding does not count."""

    products: Tensor  # (features, features)
    totals: Tensor  # (features,)
    count: int = 0

    def add(self, rows: Tensor) -> None:
        """Count in `rows`, shape `(rows, features)`."""
        self.products += (rows.T @ rows).double()
        self.totals += rows.double().sum(dim=0)
        self.count += len(rows)

    @property
    def covariance(self) -> Tensor:
        """Return the covariance, shape `(features, features)`."""
        mean = self.totals / self.count
        return self.products / self.count - torch.outer(mean, mean)


@torch.no_grad()
def reader_moments(
    module: Any, spaces: Sequence[Space], batches: Iterable[Mapping[str, Tensor]]
) -> dict[str, Moments]:
    """Return the moments of what each reader reads, by name; those that read one tensor share them.

    Of what a reader takes from several vectors side by side, all are counted as one. Raises
    `StepFailed` without batches and when something is not finite.
    """
    readers = {name: linear for space in spaces for name, linear in space.readers(module).items()}
    seen: list[tuple[str, Tensor]] = []
    hooks = [
        linear.register_forward_pre_hook(
            lambda _, arguments, name=name: seen.append((name, arguments[0]))
        )
        for name, linear in readers.items()
    ]
    found: dict[str, Moments] = {}
    module.eval()
    try:
        for inputs in batches:
            seen.clear()
            module(**inputs)
            _count_in(found, seen, inputs, module.config.hidden_size)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise StepFailed("choosing features needs at least one calibration row, got none")
    for name, moments in found.items():
        if not moments.products.isfinite().all():
            raise StepFailed(
                f"what '{name}' reads on the calibration split is not finite; the model's weights "
                f"are broken, check the checkpoint or the training before this step"
            )
    return found


def _count_in(
    found: dict[str, Moments],
    seen: Sequence[tuple[str, Tensor]],
    inputs: Mapping[str, Tensor],
    size: int,
) -> None:
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in seen:
        parts.setdefault(name, []).append(tensor)
    first: dict[int, str] = {}
    for name, chunks in parts.items():  # all alive, so that equal ids are one tensor
        leader = first.setdefault(id(chunks[0]), name)
        if leader != name:
            found[name] = found[leader]
            continue
        # A layer may compute its tokens in chunks, one after the other.
        tensor = torch.cat(chunks, dim=1) if len(chunks) > 1 else chunks[0]
        if name not in found:
            zeros = torch.zeros(size, size, dtype=torch.float64, device=tensor.device)
            found[name] = Moments(zeros, zeros[0].clone())
        found[name].add(unpadded(tensor, inputs).reshape(-1, size))


def unpadded(tensor: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the rows of `tensor`, shape `(rows, features)`, without those at padding.

    `tensor` has shape `(batch, tokens, features)`, or `(batch, features)` and then no padding.
    """
    if tensor.ndim == 2:
        return tensor
    return tensor[token_mask(inputs, *tensor.shape[:2]).to(tensor.device)]


def _magnitudes(module: Any, space: Space) -> Tensor:
    squared = torch.zeros(space.size, dtype=torch.float64)
    for axis in space.axes:
        values = module.get_parameter(axis.parameter).detach().double().cpu().transpose(0, axis.dim)
        norms = values.reshape(len(values), -1).square().sum(dim=1)
        total = norms.sum()
        squared += norms.view(axis.copies, -1).sum(dim=0) / torch.where(total == 0, 1.0, total)
    return squared.sqrt()


def _activity(
    module: Any, space: Space, moments: Mapping[str, Moments], importance: Importance
) -> Tensor:
    score = torch.zeros(space.size, dtype=torch.float64)
    for name in space.readers(module):
        own = moments[name]
        matrix = own.covariance if importance == "variance" else own.products / own.count
        diagonal = matrix.diagonal().cpu()
        score += diagonal / diagonal.mean()
    return score


def _eliminate(module: Any, space: Space, moments: Mapping[str, Moments], width: int) -> list[int]:
    """Return the features that stay when those that are cheapest to do without have left.

    The cost of a feature is that of the optimal brain surgeon (Hassibi & Stork 1992), as a fraction
    of the variance of each reader's output, summed over readers.
    """
    inverses, grams = [], []
    for name, linear in space.readers(module).items():
        covariance = moments[name].covariance
        damping = _DAMPING * covariance.diagonal().mean()
        covariance = covariance + damping * torch.eye(space.size).to(covariance)
        halves = torch.split(linear.weight.detach().double(), space.size, dim=1)
        gram = sum((half.T @ half for half in halves), torch.zeros_like(covariance))
        grams.append(gram / (gram * covariance).sum())
        inverses.append(torch.linalg.inv(covariance))
    inverse, gram = torch.stack(inverses), torch.stack(grams)  # (readers, features, features)
    left = torch.ones(space.size, dtype=torch.bool, device=gram.device)
    for _ in range(space.size - width):
        precision = inverse.diagonal(dim1=1, dim2=2)
        costs = (gram.diagonal(dim1=1, dim2=2) / precision).sum(dim=0)
        _require_finite(costs[left])
        leaves = int(costs.masked_fill(~left, torch.inf).argmin())
        column = inverse[:, :, leaves].clone()
        share = column / column[:, leaves, None]  # of it that each feature takes over
        products = gram[:, :, leaves].clone()
        own = products[:, leaves, None]
        # gram <- (I - e share')' gram (I - e share'), with e the unit vector of what leaves
        half = products - own * share / 2
        gram -= half[:, :, None] * share[:, None, :] + share[:, :, None] * half[:, None, :]
        inverse -= column[:, :, None] * share[:, None, :]
        left[leaves] = False
        inverse[:, leaves, leaves] = 1.0
    return [int(feature) for feature in left.nonzero()[:, 0]]


def _require_finite(scores: Tensor) -> None:
    if not scores.isfinite().all():
        raise StepFailed(
            "the importance of features is not finite, so they cannot be compared; the model's "
            "weights are broken, check the checkpoint or the training before this step"
        )
