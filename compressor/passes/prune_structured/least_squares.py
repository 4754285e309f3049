"""Ridge regression of one linear layer, and how firm the ridge has to be where rows are few.

With plenty of rows a ridge only keeps the equations regular, and memory does not grow with their
number. With few, the ridge is what decides: too little of it fits the rows by heart. Then the rows
are kept, and each of them says how well the others foretell it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.machine.team import Team
from compressor.models.families.layers import ConstantOutput

_RIDGE_OF_INPUTS = 1e-2  # of the map from what a student reads to what its teacher reads
_STEP = 10.0  # from one ridge that is tried to the next
_FIRMEST = 100.0  # ridge that is tried: weights hardly move any more
_LEAST = 1e-3  # ridge that is tried where rows are few
# With fewer, rows left out say too little: on 2 rows of SST-2 (see `reconstruction`; 40% removed,
# Fisher scores) their error fell by a fit, and 1000 x KL on dev rose from 87 to 191; on 5 rows it
# fell from 74 to 34, on 8 short ones from 65 to 48.
FEWEST_ROWS = 8

_EPSILON = torch.finfo(torch.float64).eps


class NormalEquations:
    """The sums, in float64, that hold all that least squares needs to know about its rows."""

    def __init__(self, num_inputs: int, num_outputs: int, device: torch.device) -> None:
        size = num_inputs + 1  # the last one is the bias
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.moments = torch.zeros(size, num_outputs, dtype=torch.float64, device=device)
        self.num_rows = 0

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Count in `inputs`, shape `(rows, num_inputs)`, and `targets`, `(rows, num_outputs)`."""
        ones = inputs.new_ones(len(inputs), 1, dtype=torch.float64)
        rows = torch.cat([inputs.double(), ones], dim=1)
        self.gram += rows.T @ rows
        self.moments += rows.T @ targets.double()
        self.num_rows += len(inputs)

    def add_up(self, team: Team) -> None:
        """Take the sums of all processes of a `team` together."""
        self.gram, self.moments = team.total(self.gram), team.total(self.moments)
        self.num_rows = int(team.total(torch.tensor(self.num_rows)))

    def require_finite(self) -> None:
        """Raise `StepFailed` when a sum is not finite."""
        if not (self.gram.isfinite().all() and self.moments.isfinite().all()):
            raise StepFailed(
                f"the sums over {self.num_rows} rows are not finite; the model's weights are "
                f"broken, check the checkpoint or the training before this step"
            )

    def solve(self, ridge: float, *, fits_bias: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return weight `(num_outputs, num_inputs)` and bias `(num_outputs,)`, float64.

        They minimise the squared error plus `ridge * mean(diagonal of the Gram matrix)` times the
        squared weight; the bias is not held back. Without `fits_bias` it is zero, and None.

        Raises `StepFailed` when a sum is not finite or the equations do not have one solution.
        """
        self.require_finite()
        num_inputs = len(self.gram) - 1
        size = num_inputs + fits_bias
        damped = self.gram[:size, :size].clone()
        if num_inputs > 0:
            mean = self.gram.diagonal()[:num_inputs].mean()
            # Inputs that are zero on all rows say nothing, and keep their weights.
            damped.diagonal()[:num_inputs] += ridge * torch.where(mean == 0, 1.0, mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        pivots = factor.diagonal().square()
        if failed or pivots.min() <= size * _EPSILON * damped.diagonal().max():
            raise StepFailed(
                f"{self.num_rows} rows give equations of rank "
                f"{int(torch.linalg.matrix_rank(damped, hermitian=True))} for {size} unknowns "
                f"(weights and bias); give more rows that differ, or a larger ridge"
            )
        solution = torch.cholesky_solve(self.moments[:size], factor)
        return solution[:num_inputs].T, solution[num_inputs] if fits_bias else None


@dataclass(frozen=True)
class RidgeChoice:
    """The ridge of one linear layer, None where it stays as it is.

    `held_out` is the squared error on rows that were left out of the fit, as a share of what it is
    without a fit.
    """

    ridge: float | None
    held_out: float


_STAYS = RidgeChoice(None, 1.0)


class Correction:
    """What is added to a linear layer, or to the constant that stands in its place.

    With `leaves_out` the rows are kept, and the ridge is chosen by leaving out one after another.
    """

    def __init__(self, layer: nn.Linear | ConstantOutput, *, leaves_out: bool = False) -> None:
        self._layer = layer
        self._num_inputs = layer.in_features if isinstance(layer, nn.Linear) else 0
        width = len(layer.weight if isinstance(layer, nn.Linear) else layer.bias)
        device = next(layer.parameters()).device
        self._equations = NormalEquations(self._num_inputs, width, device)
        self._leaves_out = leaves_out
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, inputs: Tensor, missing: Tensor, rows: Tensor) -> None:
        """Count in what is `missing` to the outputs, shape `(tokens, out_features)`.

        `rows`, shape `(tokens,)`, numbers the calibration row that each token is of; copies of a
        row have one number.
        """
        inputs = inputs[:, : self._num_inputs]
        self._equations.add(inputs, missing)
        if self._leaves_out:
            self._kept.append((inputs, missing, rows))

    def add_up(self, team: Team) -> None:
        """Count in what the other processes of a `team` counted in."""
        self._equations.add_up(team)

    @torch.no_grad()
    def solve(self, ridge: float) -> RidgeChoice | None:
        """Add the correction to the weights, and return the ridge if it was chosen here.

        Raises `StepFailed` as `NormalEquations.solve` does.
        """
        choice = self._choose(ridge) if self._leaves_out else None
        if choice is not None:
            if choice.ridge is None:
                return choice
            ridge = choice.ridge
        layer = self._layer
        weight, bias = self._equations.solve(ridge, fits_bias=layer.bias is not None)
        if isinstance(layer, nn.Linear):
            layer.weight.add_(weight.to(layer.weight))
        if bias is not None:
            layer.bias.add_(bias.to(layer.bias))
        return choice

    def _choose(self, least: float) -> RidgeChoice:
        self._equations.require_finite()
        inputs, missing, rows = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        inputs, missing = inputs.double(), missing.double()
        self._kept.clear()
        without = float(missing.square().sum())
        if without == 0 or len(torch.unique(rows)) < FEWEST_ROWS:
            return _STAYS
        ridges = ridges_to_try(least)
        errors = errors_left_out(
            inputs, missing, rows, ridges, fits_bias=self._layer.bias is not None
        )
        best = int(errors.argmin())
        share = float(errors[best]) / without
        return RidgeChoice(ridges[best], share) if share < 1 else _STAYS


class InputCorrection:
    """A linear map of what some linear layers read, which becomes part of their weights.

    Those without a bias get the map without a constant.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._linears = linears
        width, device = linears[0].in_features, linears[0].weight.device
        self._equations = NormalEquations(width, width, device)

    def add(self, read: Tensor, wanted: Tensor) -> None:
        """Count in what is read and what should be in its place, both `(tokens, in_features)`."""
        self._equations.add(read, wanted - read)

    def add_up(self, team: Team) -> None:
        """Count in what the other processes of a `team` counted in."""
        self._equations.add_up(team)

    @torch.no_grad()
    def solve(self) -> None:
        """Multiply the map into the weights.

        Raises `StepFailed` as `NormalEquations.solve` does.
        """
        has_bias = all(linear.bias is not None for linear in self._linears)
        change, shift = self._equations.solve(_RIDGE_OF_INPUTS, fits_bias=has_bias)
        for linear in self._linears:
            weight = linear.weight.double()
            linear.weight.add_((weight @ change).to(linear.weight))
            if shift is not None:
                linear.bias.add_((weight @ shift).to(linear.bias))


def ridges_to_try(least: float) -> list[float]:
    """Return ridges from `least`, or 0.001 if that is more, to 100, by powers of ten."""
    ridges = [max(least, _LEAST)]
    while ridges[-1] * _STEP <= _FIRMEST * 1.001:
        ridges.append(ridges[-1] * _STEP)
    return ridges


def errors_left_out(
    inputs: Tensor,
    targets: Tensor,
    rows: Tensor,
    ridges: Sequence[float],
    *,
    fits_bias: bool = True,
) -> Tensor:
    """Return, for each ridge, the squared error of every row by a fit to all the others.

    Shapes are `(tokens, num_inputs)`, `(tokens, num_outputs)` and `(tokens,)`, which numbers the
    row of each token: tokens of one text are alike, so that they are left out together. One
    decomposition serves all: what a row's tokens are off by, had it been left out, is
    `(I - H)^-1 r`, with their residuals `r` and their block `H` of the hat matrix. The ridge is a
    fraction of the mean diagonal of the Gram matrix of all rows. With a single row, errors are
    infinite.

    On 20 rows of SST-2 (see `reconstruction`), generalized cross-validation (Golub, Heath & Wahba
    1979, Technometrics 21:215), which leaves out tokens one by one, chose too mild a ridge.

    Ref: Allen 1974, Technometrics 16:125 (PRESS); Cook & Weisberg 1982, Residuals and Influence in
    Regression, section 2.2 (several rows left out together).
    """
    groups = [(rows == row).nonzero()[:, 0] for row in torch.unique(rows)]
    errors = torch.full((len(ridges),), torch.inf, dtype=torch.float64)
    if len(groups) < 2:
        return errors
    size = len(inputs)
    scale = inputs.square().sum(dim=0).mean() if inputs.shape[1] else inputs.new_tensor(0.0)
    if fits_bias:
        inputs, targets = inputs - inputs.mean(dim=0), targets - targets.mean(dim=0)
    left, values = _left_vectors(inputs)
    along = left.T @ targets
    # The bias is a part of every token's fit: with it the hat matrix is W W^T.
    bias = left.new_full((size, int(fits_bias)), size**-0.5)
    for index, ridge in enumerate(ridges):
        shrunk = values / (values + ridge * scale)
        residuals = targets - left @ (shrunk[:, None] * along)
        roots = torch.cat([left * shrunk.sqrt(), bias], dim=1)
        total = sum(_squares_left_out(roots[group], residuals[group]) for group in groups)
        errors[index] = torch.inf if math.isnan(total) else total
    return errors


def _squares_left_out(roots: Tensor, residuals: Tensor) -> float:
    """Return the squared sum of `(I - W W^T)^-1 r`, with `roots` W and `residuals` r of a row.

    What is decomposed is as large as the fewer of a row's tokens, copies counted, and unknowns:
    `(I - W W^T)^-1 r = r + W (I - W^T W)^-1 W^T r` (Woodbury).
    """
    tokens, unknowns = roots.shape
    if tokens <= unknowns:
        block = torch.eye(tokens).to(roots) - roots @ roots.T
        left_out, failed = torch.linalg.solve_ex(block, residuals)
    else:
        block = torch.eye(unknowns).to(roots) - roots.T @ roots
        inner, failed = torch.linalg.solve_ex(block, roots.T @ residuals)
        left_out = residuals + roots @ inner
    return torch.inf if failed else float(left_out.square().sum())


def _left_vectors(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors of `inputs` and the squared singular values above zero."""
    tokens, features = inputs.shape
    if tokens <= features:
        values, left = torch.linalg.eigh(inputs @ inputs.T)
    else:
        values, right = torch.linalg.eigh(inputs.T @ inputs)
    kept = values > max(tokens, features) * _EPSILON * values.max() if len(values) else values > 0
    values = values[kept]
    if tokens <= features:
        return left[:, kept], values
    return (inputs @ right[:, kept]) / values.sqrt(), values
