from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.pruning.least_squares import NormalEquations

CPU = torch.device("cpu")


def test_without_a_ridge_the_solution_is_that_of_numpy():
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(50, 4)), random.normal(size=(50, 3))
    expected, *_ = np.linalg.lstsq(np.hstack([inputs, np.ones((50, 1))]), targets)
    equations = NormalEquations(4, 3, CPU)

    equations.add(torch.from_numpy(inputs[:20]), torch.from_numpy(targets[:20]))
    equations.add(torch.from_numpy(inputs[20:]), torch.from_numpy(targets[20:]))
    weight, bias = equations.solve(0.0)

    assert equations.num_rows == 50
    np.testing.assert_allclose(weight.numpy(), expected[:4].T, atol=1e-12)
    assert bias is not None
    np.testing.assert_allclose(bias.numpy(), expected[4], atol=1e-12)


def test_the_ridge_is_a_fraction_of_the_mean_diagonal_and_spares_the_bias():
    # sums: x^2 = 4 + 4 = 8, x = 0; so w = sum(x y) / (8 + 0.5 * 8) and b = mean(y)
    equations = NormalEquations(1, 1, CPU)
    equations.add(torch.tensor([[2.0], [-2.0]]), torch.tensor([[7.0], [1.0]]))
    weight, bias = equations.solve(0.5)
    assert weight.tolist() == [[pytest.approx(12 / 12)]]
    assert bias is not None
    assert bias.tolist() == [pytest.approx(4.0)]


def test_without_a_bias_the_line_goes_through_the_origin():
    equations = NormalEquations(1, 1, CPU)
    equations.add(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
    weight, bias = equations.solve(0.0, fits_bias=False)
    assert weight.tolist() == [[pytest.approx(11 / 5)]]
    assert bias is None


def test_without_inputs_the_bias_is_the_mean():
    equations = NormalEquations(0, 2, CPU)
    equations.add(torch.zeros(4, 0), torch.tensor([[1.0, 0], [2.0, 0], [3.0, 0], [6.0, 4.0]]))
    weight, bias = equations.solve(1e-3)
    assert weight.shape == (2, 0)
    assert bias is not None
    assert bias.tolist() == pytest.approx([3.0, 1.0])


def test_rows_that_are_all_alike_are_singular():
    equations = NormalEquations(3, 1, CPU)
    equations.add(torch.tensor([[1.0, 2.0, 3.0]]).expand(10, 3), torch.ones(10, 1))
    with pytest.raises(ValueError, match="10 rows give equations of rank 1 for 4 unknowns"):
        equations.solve(0.0)


def test_sums_that_are_not_finite_are_refused():
    equations = NormalEquations(1, 1, CPU)
    equations.add(torch.tensor([[float("nan")]]), torch.ones(1, 1))
    with pytest.raises(ValueError, match="the sums over 1 rows are not finite"):
        equations.solve(1e-3)
