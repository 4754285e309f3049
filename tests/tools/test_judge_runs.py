"""Finished runs are judged by rows set apart: what is lost, and how far that may be chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("judge_runs")


def logits(*ones: float) -> np.ndarray:
    """Return logits of two classes whose difference is each of these."""
    return np.array([[0.0, one] for one in ones], np.float32)


def test_loss_is_that_of_a_calculation_by_hand(tool: ModuleType) -> None:
    labels = np.array([1, 1, 0, 0])
    found = tool.loss_of(logits(2, 2, 2, -2), logits(2, -2, 2, -2), labels)

    # One of four rows was right and is wrong now; one is wrong in both.
    assert found["baseline"] == 75
    assert found["points_lost"] == 25
    assert found["changed_percent"] == 25
    # The losses are 0, 1, 0, 0: their variance is 1/4, the standard error a quarter.
    assert found["points_either_way"] == pytest.approx(100 * 1.96 / 4)
    # Divided by the temperature the logits are 1 and -1: the divergence of p from 1 - p.
    p = 1 / (1 + math.exp(-1))
    assert found["kl_thousandths"] == pytest.approx(
        1000 * (p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)) / 4, rel=1e-5
    )


def test_a_gain_is_a_negative_loss(tool: ModuleType) -> None:
    found = tool.loss_of(logits(-1, 1), logits(1, 1), np.array([1, 1]))

    assert found["points_lost"] == -50


def test_the_same_predictions_lose_nothing(tool: ModuleType) -> None:
    found = tool.loss_of(logits(1, -1), logits(1, -1), np.array([0, 0]))

    assert (found["points_lost"], found["points_either_way"], found["kl_thousandths"]) == (0, 0, 0)
