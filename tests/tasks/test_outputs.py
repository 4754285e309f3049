"""Outputs of several examples are collected, chosen from and compared by their task."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.errors import StepFailed
from compressor.tasks import ClassLogits, Vectors, load_task

BEFORE = np.array([[2, 1], [0, 3], [1, 0]], dtype=np.float32)
AFTER = np.array([[2, 1], [4, 3], [1, 0]], dtype=np.float32)


def test_batches_are_joined_and_rows_are_chosen_in_order():
    task = load_task("text-classification")
    outputs = task.collect([BEFORE, AFTER], [{}, {}])
    assert len(outputs) == 6
    assert outputs.select([4, 0]).numbers.tolist() == [[4, 3], [2, 1]]
    assert type(outputs).joined([outputs, outputs]).numbers.shape == (12, 2)


def test_the_first_example_with_a_number_that_is_not_finite_is_named():
    broken = BEFORE.copy()
    broken[1, 0] = np.nan
    assert ClassLogits(broken).first_not_finite() == 1
    assert ClassLogits(BEFORE).first_not_finite() is None


def test_a_prediction_changed_where_another_logit_is_the_largest():
    task = load_task("text-classification")
    changed = task.changed(ClassLogits(BEFORE), ClassLogits(AFTER))
    assert changed is not None
    assert changed.tolist() == [False, True, False]
    assert load_task("sentence-embedding").changed(Vectors(BEFORE), Vectors(AFTER)) is None


def test_the_error_is_the_root_mean_square_of_the_change():
    # One of six numbers changes, by 4.
    task = load_task("text-classification")
    assert task.error(ClassLogits(BEFORE), ClassLogits(AFTER)) == pytest.approx(4 / np.sqrt(6))
    with pytest.raises(StepFailed, match="NaN or infinity"):
        task.error(ClassLogits(BEFORE), ClassLogits(np.full_like(BEFORE, np.inf)))
