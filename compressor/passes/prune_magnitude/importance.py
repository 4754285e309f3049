"""How much each single weight matters: by chance, size, activations, gradients, information.

What is measured on calibration rows is measured once, before anything is pruned, and is a factor on
the magnitude that a weight has when it is ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_magnitude.masks import magnitudes, prunable_layers, prunable_weights
from compressor.passes.prune_structured.calibration_batches import (
    LabelledInputs,
    shared_out,
    summed_loss,
)
from compressor.passes.prune_structured.histograms import Information, Observations


@dataclass(frozen=True)
class WeightImportance:
    """What ranks single weights: their magnitude, times a factor where one was measured.

    `factors` by parameter name are as wide as what they multiply, or as its inputs, `(1, inputs)`.
    With `is_score` they are the scores themselves, whatever the weights are.
    """

    factors: Mapping[str, Tensor]
    is_score: bool = False

    def scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a score for each of `weights`, the lowest go first.

        Raises `StepFailed` for weights that are not finite.
        """
        found = magnitudes(weights)
        for name, factor in self.factors.items():
            here = factor.to(found[name].device)
            found[name] = here if self.is_score else found[name] * here.to(found[name].dtype)
        return found


MAGNITUDE = WeightImportance({})


def random_importance(weights: Mapping[str, Tensor], seed: int) -> WeightImportance:
    """Draw every score from (0, 1): the baseline that any other importance has to beat."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.rand(value.shape, generator=generator) for name, value in weights.items()}
    return WeightImportance(drawn, is_score=True)


def taylor_importance(
    model: TorchModel,
    batches: Iterable[LabelledInputs],
    *,
    include_embeddings: bool,
    team: Team = ALONE,
) -> WeightImportance:
    """Estimate to first order how much the loss changes when a weight is set to zero.

    It is the weight times the gradient of the mean loss, in evaluation mode, in absolute value. The
    loss is the task's on labels or, without labels, on what the model itself predicts. Each process
    of a `team` has its own `batches`.

    Raises `StepFailed` when there are no examples, a gradient is not finite, and without labels
    where the loss towards a model's own outputs has none.
    Ref: Lee et al. 2019, arXiv:1810.02340, eq. 4; Molchanov et al. 2017, arXiv:1611.06440, eq. 7.
    """
    weights = prunable_weights(model.module, include_embeddings=include_embeddings)
    sums = {name: torch.zeros_like(value) for name, value in weights.items()}
    num_examples = 0
    model.module.eval()
    with _trainable(weights.values()), torch.enable_grad():
        for inputs, labels in batches:
            outputs = model.task.output_of(model.module(**inputs))
            loss = summed_loss(model.task, outputs, inputs, labels)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:  # else no output depends on it
                    total += gradient
            num_examples += len(outputs)
    num_examples = int(team.total(torch.tensor(num_examples)))
    _require_some(num_examples)
    sums = {name: team.total(total) for name, total in sums.items()}
    for name, total in sums.items():
        _require_finite(name, total)
    return WeightImportance(
        {name: total.abs().cpu() / num_examples for name, total in sums.items()}
    )


def activation_importance(
    model: TorchModel, batches: Iterable[LabelledInputs], team: Team = ALONE
) -> WeightImportance:
    """Weigh each weight by the size of what it reads: the norm of its input over all tokens.

    Padding does not count. Each process of a `team` has its own `batches`. Raises `StepFailed` when
    there are no examples, one of the layers is a convolution, or an activation is not finite.

    Ref: Sun et al. 2023, arXiv:2306.11695, eq. 1 (there the sum, not the mean, of squares).
    """
    linears = _linears(model)
    sums = [torch.zeros(layer.in_features, dtype=torch.float64) for _, layer in linears]
    counts = [0] * len(linears)
    num_examples = 0
    for seen, mask, _ in _passes(model, [layer for _, layer in linears], batches):
        for number, (name, layer) in enumerate(linears):
            if layer not in seen:  # nothing depends on it
                continue
            values, own_mask = _at_tokens(name, seen[layer], mask)
            found = values[own_mask]
            sums[number] += found.double().square().sum(dim=0).cpu()
            counts[number] += len(found)
        num_examples += len(mask)
    _require_some(int(team.total(torch.tensor(num_examples))))
    sums, counts = [team.total(each) for each in sums], team.total(torch.tensor(counts)).tolist()
    norms = {}
    for (name, _), total, count in zip(linears, sums, counts, strict=True):
        _require_finite(name, total)
        norms[name] = (total / max(1, count)).sqrt().float()[None]
    return WeightImportance(norms)


def information_importance(
    model: TorchModel,
    batches: Iterable[LabelledInputs],
    kind: Information,
    num_rows: int,
    seed: int,
    team: Team = ALONE,
) -> tuple[WeightImportance, str]:
    """Weigh each weight by the information in what it reads; return what was counted, too.

    That is the entropy of its input over rows, or the mutual information of input and label. It
    takes the place that the norm has in `activation_importance`. Each process of a `team` measures
    its own of all `batches`.

    Raises `StepFailed` as `Observations` and `activation_importance` do.
    """
    linears = _linears(model)
    seen_of = Observations(kind, num_rows, seed)
    own = shared_out(batches, team, lambda batch: seen_of.pass_over(batch[1]))
    for seen, mask, labels in _passes(model, [layer for _, layer in linears], own):
        values = {}
        for number, (name, layer) in enumerate(linears):
            if layer not in seen:  # nothing depends on it
                continue
            values[number], _ = _at_tokens(name, seen[layer], mask)
            _require_finite(name, values[number])
        seen_of.add(values, mask, labels)
    seen_of.share(team, range(len(linears)))
    scores = seen_of.scores()
    found = {
        name: scores.get(number, torch.zeros(layer.in_features)).float()[None]
        for number, (name, layer) in enumerate(linears)
    }
    return WeightImportance(found), seen_of.words


def _linears(model: TorchModel) -> list[tuple[str, nn.Linear]]:
    """Return the matrices to prune with the names of their weights."""
    names = {id(value): name for name, value in model.module.named_parameters()}
    found = []
    for layer in prunable_layers(model.module, include_embeddings=False):
        name = names.get(id(layer.weight))
        if name is None:  # a product of other parameters, as of weight normalization, stays whole
            continue
        if not isinstance(layer, nn.Linear):
            raise StepFailed(
                f"importance: {name} is a convolution, and what its inputs do is measured for "
                f"matrices alone; use importance magnitude, taylor or random"
            )
        found.append((name, layer))
    return found


def _at_tokens(name: str, seen: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a matrix reads at tokens, `(batch, tokens, inputs)`, and where none is padding.

    What is computed once for a row, as by a pooler, has one token. A matrix may be used for other
    things too, such as relative positions, and may read tokens several times or in parts.
    """
    batch_size, num_tokens = mask.shape
    whole = [found for found in seen if found.shape[:2] == mask.shape and found.dim() == 3]
    if whole:
        return torch.cat(whole, dim=1), mask.repeat(1, len(whole))
    rows = [found for found in seen if len(found) == batch_size]
    if rows and rows[0].dim() == 2:
        return rows[0][:, None], torch.ones(batch_size, 1, dtype=torch.bool, device=mask.device)
    parts = [found for found in rows if found.dim() == 3]
    if parts and (joined := torch.cat(parts, dim=1)).shape[1] % num_tokens == 0:
        return joined, mask.repeat(1, joined.shape[1] // num_tokens)
    raise StepFailed(
        f"importance: {name} reads inputs of shape {[tuple(found.shape) for found in seen]}, not "
        f"of {num_tokens} tokens in {batch_size} rows, so it is not known which of them are "
        f"padding; use importance magnitude, taylor or random"
    )


@torch.no_grad()
def _passes(
    model: TorchModel, layers: Sequence[nn.Linear], batches: Iterable[LabelledInputs]
) -> Iterator[tuple[Mapping[nn.Module, Sequence[Tensor]], Tensor, Tensor | None]]:
    """Yield what the matrices read in a forward pass over each batch, with its mask and labels."""
    model.module.eval()
    for inputs, labels in batches:
        with _watching(layers) as seen:
            model.module(**inputs)
        mask = inputs.get("attention_mask")
        if mask is None:
            first = next(found for values in seen.values() for found in values if found.dim() == 3)
            mask = torch.ones(first.shape[:2], device=first.device)
        yield seen, mask.bool(), labels


@contextmanager
def _watching(layers: Sequence[nn.Linear]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    seen: dict[nn.Module, list[Tensor]] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(layer, []).append(inputs[0])

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(keep))
        yield seen


@contextmanager
def _trainable(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach `weights`, in this block, whether they are trained or not."""
    before = [(weight, weight.requires_grad) for weight in weights]
    try:
        for weight, _ in before:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)


def _require_some(num_examples: int) -> None:
    if num_examples == 0:
        raise StepFailed("measuring weights needs at least one calibration row, got none")


def _require_finite(name: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise StepFailed(
            f"importance: what {name} does on the calibration split is not finite; the model's "
            f"weights are broken, check the checkpoint or the training before this step"
        )
