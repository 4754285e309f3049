"""Ridge regression of one linear layer in memory that does not grow with the number of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.errors import StepFailed

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

    def solve(self, ridge: float, *, fits_bias: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return weight `(num_outputs, num_inputs)` and bias `(num_outputs,)`, float64.

        They minimise the squared error plus `ridge * mean(diagonal of the Gram matrix)` times the
        squared weight; the bias is not held back. Without `fits_bias` it is zero, and None.

        Raises `StepFailed` when a sum is not finite or the equations do not have one solution.
        """
        if not (self.gram.isfinite().all() and self.moments.isfinite().all()):
            raise StepFailed(
                f"the sums over {self.num_rows} rows are not finite; the model's weights are "
                f"broken, check the checkpoint or the training before this step"
            )
        num_inputs = len(self.gram) - 1
        size = num_inputs + fits_bias
        damped = self.gram[:size, :size].clone()
        if num_inputs > 0:
            damped.diagonal()[:num_inputs] += ridge * self.gram.diagonal()[:num_inputs].mean()
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
