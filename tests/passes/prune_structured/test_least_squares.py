from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.passes.prune_structured.least_squares import (
    Correction,
    NormalEquations,
    errors_left_out,
    ridges_to_try,
)

CPU = torch.device("cpu")
Array = NDArray[np.float64]


def refitted_error(
    inputs: Array, targets: Array, rows: NDArray[Any], ridge: float, *, fits_bias: bool
) -> float:
    """Leave out each row in turn, fit to the others by the plain equations, and add up errors."""
    held = ridge * np.square(inputs).sum(axis=0).mean()
    penalty = np.diag([held] * inputs.shape[1] + [0.0] * fits_bias)
    ones = np.ones((len(inputs), int(fits_bias)))
    full = np.hstack([inputs, ones])
    total = 0.0
    for row in np.unique(rows):
        others, own = full[rows != row], full[rows == row]
        solution = np.linalg.solve(others.T @ others + penalty, others.T @ targets[rows != row])
        total += float(np.square(targets[rows == row] - own @ solution).sum())
    return total


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


@pytest.mark.parametrize("fits_bias", [True, False])
@pytest.mark.parametrize("num_inputs", [3, 40])
def test_errors_of_rows_left_out_are_those_of_fits_without_them(num_inputs: int, fits_bias: bool):
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(20, num_inputs)), random.normal(size=(20, 2))
    rows = np.repeat([0, 3, 5, 9], [2, 5, 6, 7])
    expected = [
        refitted_error(inputs, targets, rows, ridge, fits_bias=fits_bias) for ridge in (1e-2, 3.0)
    ]
    errors = errors_left_out(
        torch.from_numpy(inputs),
        torch.from_numpy(targets),
        torch.from_numpy(rows),
        (1e-2, 3.0),
        fits_bias=fits_bias,
    )
    np.testing.assert_allclose(errors.numpy(), expected, rtol=1e-8)


def test_one_row_cannot_be_left_out():
    inputs = torch.randn(4, 2, dtype=torch.float64)
    errors = errors_left_out(inputs, inputs, torch.zeros(4, dtype=torch.int64), (1.0, 10.0))
    assert errors.tolist() == [float("inf"), float("inf")]


def test_ridges_are_tried_from_the_least_to_one_that_leaves_weights_alone():
    assert ridges_to_try(1.0) == pytest.approx([1, 10, 100])
    assert ridges_to_try(0.0)[0] == 1e-3  # without any, few rows are fitted by heart
    assert ridges_to_try(100.0) == [100.0]


def test_rows_that_contradict_each_other_leave_a_layer_as_it_is():
    layer = nn.Linear(2, 1)
    before = layer.weight.tolist(), layer.bias.tolist()
    fit = Correction(layer, leaves_out=True)
    inputs = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).repeat(4, 1)
    fit.add(inputs, torch.ones(8, 1), torch.arange(8) // 2)
    fit.add(inputs, -torch.ones(8, 1), 4 + torch.arange(8) // 2)
    choice = fit.solve(1e-3)
    assert choice is not None
    assert (choice.ridge, choice.held_out) == (None, 1.0)
    assert (layer.weight.tolist(), layer.bias.tolist()) == before


def test_seven_rows_that_agree_are_too_few_to_tell():
    layer = nn.Linear(2, 1)
    fit = Correction(layer, leaves_out=True)
    fit.add(torch.randn(14, 2), torch.ones(14, 1), torch.arange(14) // 2)
    choice = fit.solve(1e-3)
    assert choice is not None
    assert choice.ridge is None


def test_rows_that_agree_are_fitted_with_the_least_ridge():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.zero_()
    fit = Correction(layer, leaves_out=True)
    inputs = torch.randn(30, 2, generator=generator)
    fit.add(inputs, inputs @ torch.tensor([[3.0], [-1.0]]), torch.arange(30) // 3)
    choice = fit.solve(1e-3)
    assert choice is not None
    assert choice.ridge == 1e-3
    assert choice.held_out < 1e-4
    assert layer.weight.tolist()[0] == pytest.approx([3.0, -1.0], rel=0.01)


def test_a_layer_whose_inputs_are_all_zero_gets_its_constant_alone():
    layer = nn.Linear(2, 1)
    before, bias = layer.weight.tolist(), layer.bias.item()
    fit = Correction(layer, leaves_out=True)
    fit.add(torch.zeros(8, 2), torch.full((8, 1), 2.0), torch.arange(8))
    fit.solve(1e-3)
    assert layer.weight.tolist() == before
    assert layer.bias.item() == pytest.approx(bias + 2.0)
