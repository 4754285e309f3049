"""Labels that number the classes in another order are told by the checkpoint's own predictions."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.pipeline.label_order import LabelOrder, better_order, better_order_of_sets

RANDOM = np.random.default_rng(0)


def classes(count: int, num_labels: int) -> np.ndarray:
    return RANDOM.integers(0, num_labels, count)


def noisy(predictions: np.ndarray, share: float, num_labels: int) -> np.ndarray:
    """Return the predictions with a share of them replaced by random ones."""
    size = len(predictions)
    return np.where(RANDOM.random(size) < share, classes(size, num_labels), predictions)


def test_exchanged_classes_are_found_with_both_shares():
    predictions = np.tile([0, 0, 1, 1, 2], 12)  # of 60, 12 are class 2 and keep their name
    labels = np.array([1, 0, 2])[predictions]
    assert better_order(labels, predictions, 3) == LabelOrder(0.2, 1.0, (1, 0, 2), is_certain=True)


@pytest.mark.parametrize("num_labels", [2, 3, 20])
def test_labels_in_the_right_order_are_left_alone(num_labels: int):
    predictions = classes(400, num_labels)
    assert better_order(noisy(predictions, 0.3, num_labels), predictions, num_labels) is None


@pytest.mark.parametrize("num_labels", [2, 3, 20])
def test_labels_that_fit_no_order_are_left_alone(num_labels: int):
    assert better_order(classes(400, num_labels), classes(400, num_labels), num_labels) is None


def test_many_classes_in_a_random_order_are_found():
    predictions = classes(3000, 150)
    order = np.random.default_rng(1).permutation(150)
    found = better_order(order[noisy(predictions, 0.1, 150)], predictions, 150)
    assert found is not None
    assert found.is_certain
    assert found.meaning == tuple(np.argsort(order).tolist())


def test_a_weak_checkpoint_is_told_and_not_refused():
    """Four in ten right as they stand and six turned round: the errors are not halved."""
    predictions = np.arange(1000) // 10 % 2
    labels = np.where(np.arange(1000) % 10 < 4, predictions, 1 - predictions)
    found = better_order(labels, predictions, 2)
    assert found == LabelOrder(0.4, 0.6, (1, 0), is_certain=False)


def test_a_handful_of_rows_is_no_proof():
    predictions = np.array([0, 1, 1, 0, 0, 1])
    assert better_order(1 - predictions, predictions, 2) is None


def test_exchanged_labels_of_sets_are_found_with_both_micro_f1():
    predicted = np.tile([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0]], (40, 1)) > 0
    labelled = predicted[:, [1, 0, 2]]  # label 0 means class 1, and label 1 class 0
    # In 5 rows are 6 labels and 6 predictions. As they stand 4 are common: one each of the two
    # exchanged ones, in the row that has both, and 2 of class 2.
    expected = LabelOrder(2 * 4 / 12, 1.0, (1, 0, 2), is_certain=True)
    assert better_order_of_sets(labelled, predicted) == expected


@pytest.mark.parametrize("num_labels", [2, 5, 28])
def test_sets_in_the_right_order_and_sets_that_fit_none_are_left_alone(num_labels: int):
    predicted = RANDOM.random((400, num_labels)) < 0.2
    labelled = predicted ^ (RANDOM.random(predicted.shape) < 0.1)
    assert better_order_of_sets(labelled, predicted) is None
    assert better_order_of_sets(RANDOM.random(predicted.shape) < 0.2, predicted) is None


def test_sets_without_any_label_have_no_order():
    nothing = np.zeros((50, 3), dtype=bool)
    assert better_order_of_sets(nothing, nothing) is None
