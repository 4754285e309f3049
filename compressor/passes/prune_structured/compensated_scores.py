"""Importance of heads and neurons after least squares made up for their removal.

The Fisher information of a mask asks what happens when a unit goes and nothing else changes. Least
squares will change the output projection afterwards, so a unit that others can imitate is worth
little, however large its own effect. The optimal brain surgeon answers that question: units leave
one after another, each time those that cost least after the best correction of the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.families.layers import Attention, Encoder
from compressor.passes.prune_structured.fisher import (
    Call,
    Part,
    examples_of_all,
    gradients_at_outputs,
    output_of,
    parts_of,
    require_finite,
)
from compressor.passes.prune_structured.importance import UnitScores
from compressor.tasks import Task

# The size of a batch, and what happened at the output projections.
Measured = tuple[int, dict[nn.Linear, list[Call]]]

_NEURONS_AT_ONCE = 16  # that leave before the others are compared again
_ROUNDS = 24  # of neurons that leave, between copies without those that left
_BLOCK = 768  # rows and columns of a second moment that are summed together
_DAMPING = 1e-3  # of the mean diagonal of the inputs' second moments
_FLOOR = 0.1  # weight of a token that no prediction depends on, where the mean of all is 1


def compensated_scores(
    encoder: Encoder,
    batches: Iterable[Mapping[str, Tensor]],
    task: Task,
    *,
    seed: int = 0,
    team: Team = ALONE,
) -> UnitScores:
    """Return what each unit costs at the moment it leaves, in the KL divergence of the predictions.

    Within a layer, scores rise in the order in which units leave. The cost of a change `dW` of an
    output projection is `tr(C dW H dW')`: `H` is the second moment of the projection's inputs, each
    token weighted by the squared gradient of the model's own softened predictions, and `C` is the
    second moment of that gradient. So costs compare across layers and between heads and neurons.
    Padding is left out. Memory is that of `H`: `(neurons + 1)^2` numbers of 8 bytes a layer.

    `batches` are inputs of the model by name, of which each process of a `team` measures its own.
    Raises `StepFailed` when there are none, something is not finite, or no prediction depends on
    any layer.

    Ref: Hassibi & Stork 1992 (optimal brain surgeon); Martens & Grosse 2015, arXiv:1503.05671 (the
    factors); Kurtic et al. 2023, arXiv:2302.04089 (heads and neurons of encoders).
    """
    parts = parts_of(encoder.layers)
    known = [part for part in parts if part is not None]
    moments = _measure(encoder.module, known, batches, task, seed, team)
    for part, found in moments.items():
        require_finite(parts, part, found.inputs)
        require_finite(parts, part, found.gradients)
    if moments and not any(found.squares for found in moments.values()):
        raise StepFailed(
            "the model's predictions for the calibration rows depend on no layer, so heads and "
            "neurons cannot be compared; its classifier may be zero or was never trained, or its "
            "logits are so far apart that nothing changes them: check the checkpoint"
        )
    none = torch.zeros(0, dtype=torch.float64)
    scores = [
        elimination_costs(
            output_of(part).weight,
            moments[part],
            dim=part.head_dim if isinstance(part, Attention) else 1,
        )
        if part
        else none
        for part in parts
    ]
    return UnitScores(tuple(scores[0::2]), tuple(scores[1::2]))


@dataclass
class Moments:
    """Second moments around one output projection, float64.

    `inputs` has shape `(in_features + 1, in_features + 1)`, the last row and column for the bias;
    `gradients` has shape `(out_features, out_features)` and a trace of 1. `squares` is the sum of
    squared gradients over `num_tokens` tokens.
    """

    inputs: Tensor
    gradients: Tensor
    squares: float = 0.0
    num_tokens: int = 0


def elimination_costs(weight: Tensor, moments: Moments, dim: int) -> Tensor:
    """Return the cost at which each unit leaves, shape `(units,)`, float64 on the CPU.

    `weight` has shape `(out_features, units * dim)`. Costs never fall from one unit to the next
    that leaves; neurons (`dim` 1) leave 16 at a time and share the mean cost.
    """
    at_once = _NEURONS_AT_ONCE if dim == 1 else 1
    size = weight.shape[1]
    damped = moments.inputs.clone()
    mean = damped.diagonal()[:size].mean()
    # Where no prediction depends on a layer, any damping gives its units a cost of 0.
    damped.diagonal()[:size] += torch.where(mean == 0, 1.0, _DAMPING * mean)
    damped.diagonal()[size:] += (mean == 0).double()
    inverse = _inverse(damped)
    # tr(C dW H dW') is the plain norm of `root @ dW`, and corrections act on the other side.
    values, vectors = torch.linalg.eigh(moments.gradients)
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    rest = root @ weight.detach().double()  # (out_features, features that are left)
    alive = torch.arange(size // dim, device=weight.device)
    gone = torch.zeros(size // dim, dtype=torch.bool, device=weight.device)  # of `alive`
    costs = torch.zeros(size // dim, dtype=torch.float64)
    highest = 0.0
    num_left = len(alive)
    # The inverse is corrected now and then, by all that left since: one pass over it takes as long
    # as several corrections.
    rounds = _ROUNDS if dim == 1 else 1
    while num_left > 0:
        changes = _Changes(inverse)
        norms = rest.square().sum(dim=0)
        for _ in range(rounds):
            order = _cheapest(rest, norms, changes, gone, dim)
            leaving = order[: min(at_once, num_left)]
            columns = _features(leaving, dim)
            taken = rest[:, columns]
            rows = changes.rows(columns)  # (features that leave, features and bias)
            precision = torch.linalg.inv(rows[:, columns])
            highest = max(highest, float((taken @ precision * taken).sum()) / len(leaving))
            costs[alive[leaving].cpu()] = highest
            correction = precision @ rows
            lost = correction[:, :-1]
            norms += ((taken.T @ taken @ lost - 2 * (taken.T @ rest)) * lost).sum(dim=0)
            rest.addmm_(taken, lost, alpha=-1)
            changes.subtract(rows, correction)
            gone[leaving] = True
            num_left -= len(leaving)
            if num_left == 0:
                break
        kept = _features((~gone).nonzero()[:, 0], dim)
        rest = rest[:, kept]
        inverse = changes.applied(torch.cat([kept, kept.new_tensor([len(inverse) - 1])]))
        alive = alive[~gone]
        gone = torch.zeros_like(alive, dtype=torch.bool)
    return costs


class _Changes:
    """A symmetric matrix, minus products of thin ones that are not yet subtracted from it."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.diagonal = matrix.diagonal().clone()
        self._left: list[Tensor] = []  # (thin, size) each
        self._right: list[Tensor] = []

    def rows(self, places: Tensor) -> Tensor:
        """Return some rows, shape `(places, size)`."""
        found = self.matrix[places]
        for left, right in zip(self._left, self._right, strict=True):
            found.addmm_(left[:, places].T, right, alpha=-1)
        return found

    def subtract(self, left: Tensor, right: Tensor) -> None:
        """Subtract `left.T @ right`, which is symmetric; both have shape `(thin, size)`."""
        self._left.append(left)
        self._right.append(right)
        self.diagonal -= (left * right).sum(dim=0)

    def applied(self, kept: Tensor) -> Tensor:
        """Return the rows and columns `kept` of the matrix, with all that was subtracted."""
        left, right = torch.cat(self._left)[:, kept], torch.cat(self._right)[:, kept]
        return self.matrix[kept][:, kept].addmm_(left.T, right, alpha=-1)


def _inverse(matrix: Tensor) -> Tensor:
    """Return the inverse of a symmetric matrix, in half the time where it is positive definite.

    Sums in the model's own precision may leave another one.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.inv(matrix) if failed else torch.cholesky_inverse(factor)


def _cheapest(rest: Tensor, norms: Tensor, changes: _Changes, gone: Tensor, dim: int) -> Tensor:
    """Order the units by what it costs to remove each alone, cheapest first, `gone` ones last.

    `norms` are the squared norms of the columns of `rest`. Of attention heads nothing may be left
    to subtract in `changes`.
    """
    count = rest.shape[1] // dim
    if dim == 1:
        alone = norms / changes.diagonal[:count]
        return torch.where(gone, torch.inf, alone).argsort(stable=True)
    features = torch.arange(count * dim, device=rest.device).view(count, dim)
    own = changes.matrix[features[:, :, None], features[:, None, :]]  # (units, dim, dim)
    columns = rest.T.reshape(count, dim, -1)
    products = columns @ columns.mT  # (units, dim, dim)
    solved: Tensor = torch.linalg.solve(own, products)
    return solved.diagonal(dim1=1, dim2=2).sum(dim=1).argsort(stable=True)


def _features(units: Tensor, dim: int) -> Tensor:
    return (units[:, None] * dim + torch.arange(dim, device=units.device)).flatten()


def _measure(
    module: nn.Module,
    parts: Sequence[Part],
    batches: Iterable[Mapping[str, Tensor]],
    task: Task,
    seed: int,
    team: Team,
) -> dict[Part, Moments]:
    """Return the moments around each output projection, in one pass over `batches`."""
    moments = {part: _no_moments(output_of(part)) for part in parts}
    num_examples = 0
    own = gradients_at_outputs(module, parts, batches, task, seed, team)
    for size, calls in _in_turn(own, moments, team):
        for part, found in moments.items():
            for call in calls[output_of(part)]:
                _add(found, call)
        num_examples += size
    num_examples = examples_of_all(num_examples, team)
    for found in moments.values():
        found.inputs = _mirrored(team.total(found.inputs))
        found.gradients = _mirrored(team.total(found.gradients))
        trace = found.gradients.diagonal().sum()
        found.inputs /= num_examples
        found.gradients /= torch.where(trace == 0, 1.0, trace)
    return moments


def _in_turn(
    own: Iterator[Measured], moments: Mapping[Part, Moments], team: Team
) -> Iterator[Measured]:
    """Yield `own`, while `squares` and `num_tokens` are what one process would have until then.

    The weight of a token depends on them, so processes tell each other, batch by batch.
    """
    if team.is_alone:
        yield from own
        return
    while True:
        found = next(own, None)
        given = torch.stack(team.gathered(_squares_of(found, moments)))  # (processes, 1 + parts, 2)
        if not given[:, 0].any():
            return
        start = [(part.squares, part.num_tokens) for part in moments.values()]
        before, after = given[: team.rank].sum(dim=0), given.sum(dim=0)  # (1 + parts, 2)
        if found is not None:
            _move(moments, start, before)
            yield found
        _move(moments, start, after)


def _squares_of(found: Measured | None, moments: Mapping[Part, Moments]) -> Tensor:
    """Return the sum of squared gradients of a batch and its tokens, shape `(1 + parts, 2)`.

    The first row says whether there is a batch.
    """
    sums = torch.zeros(1 + len(moments), 2, dtype=torch.float64)
    if found is None:
        return sums
    sums[0] = 1
    for row, part in enumerate(moments, start=1):
        for call in found[1][output_of(part)]:
            squares = [each[call.mask].double().square().sum() for each in call.gradients]
            sums[row] += torch.tensor([float(sum(squares)), float(call.mask.sum())])
    return sums


def _move(moments: Mapping[Part, Moments], start: Sequence[tuple[float, int]], by: Tensor) -> None:
    for part, (squares, num_tokens), (more, tokens) in zip(
        moments.values(), start, by[1:].tolist(), strict=True
    ):
        part.squares, part.num_tokens = squares + more, num_tokens + int(tokens)


def _no_moments(linear: nn.Linear) -> Moments:
    def square(size: int) -> Tensor:
        return torch.zeros(size, size, dtype=torch.float64, device=linear.weight.device)

    return Moments(square(linear.in_features + 1), square(linear.out_features))


def _add(moments: Moments, call: Call) -> None:
    # Products in the model's own precision, sums in float64: the scores only rank.
    gradients = [gradient[call.mask] for gradient in call.gradients]  # (tokens, out_features) each
    squares = torch.stack([gradient.square().sum(dim=1) for gradient in gradients]).sum(dim=0)
    moments.num_tokens += len(squares)
    moments.squares += float(squares.double().sum())
    weights = squares + _FLOOR * moments.squares / moments.num_tokens
    inputs = functional.pad(call.inputs[call.mask], (0, 1), value=1.0)
    _add_product(moments.inputs, inputs * weights[:, None], inputs)
    for gradient in gradients:
        _add_product(moments.gradients, gradient, gradient)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left.T @ right`, which is symmetric, to the lower triangle of `total`, block by block.

    What is above the blocks on the diagonal is left out, in which half of the time would go.
    """
    for start in range(0, len(total), _BLOCK):
        end = start + _BLOCK
        total[start:end, :end] += left[:, start:end].T @ right[:, :end]


def _mirrored(lower: Tensor) -> Tensor:
    """Return the symmetric matrix whose lower triangle is that of `lower`, in place."""
    for start in range(0, len(lower), _BLOCK):
        end = start + _BLOCK
        block = lower[start:end, start:end]
        block.copy_(block.tril() + block.tril(-1).T)
        lower[start:end, end:] = lower[end:, start:end].T
    return lower
