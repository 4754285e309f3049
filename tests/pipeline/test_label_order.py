"""Labels that number the classes in another order are told by the checkpoint's own answers."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.pipeline.label_order import LabelOrder, better_order

RANDOM = np.random.default_rng(0)


def classes(count: int, num_labels: int) -> np.ndarray:
    return RANDOM.integers(0, num_labels, count)


def noisy(answers: np.ndarray, share: float, num_labels: int) -> np.ndarray:
    """Return the answers with a share of them replaced by random ones."""
    return np.where(RANDOM.random(len(answers)) < share, classes(len(answers), num_labels), answers)


def test_exchanged_classes_are_found_with_both_shares():
    answers = np.tile([0, 0, 1, 1, 2], 12)  # of 60, 12 are class 2 and keep their name
    labels = np.array([1, 0, 2])[answers]
    assert better_order(labels, answers, 3) == LabelOrder(0.2, 1.0, (1, 0, 2), is_certain=True)


@pytest.mark.parametrize("num_labels", [2, 3, 20])
def test_labels_in_the_right_order_are_left_alone(num_labels: int):
    answers = classes(400, num_labels)
    assert better_order(noisy(answers, 0.3, num_labels), answers, num_labels) is None


@pytest.mark.parametrize("num_labels", [2, 3, 20])
def test_labels_that_fit_no_order_are_left_alone(num_labels: int):
    assert better_order(classes(400, num_labels), classes(400, num_labels), num_labels) is None


def test_many_classes_in_a_random_order_are_found():
    answers = classes(3000, 150)
    order = np.random.default_rng(1).permutation(150)
    found = better_order(order[noisy(answers, 0.1, 150)], answers, 150)
    assert found is not None
    assert found.is_certain
    assert found.meaning == tuple(np.argsort(order).tolist())


def test_a_weak_checkpoint_is_told_and_not_refused():
    """Four in ten right as they stand and six turned round: the errors are not halved."""
    answers = np.arange(1000) // 10 % 2
    labels = np.where(np.arange(1000) % 10 < 4, answers, 1 - answers)
    found = better_order(labels, answers, 2)
    assert found == LabelOrder(0.4, 0.6, (1, 0), is_certain=False)


def test_a_handful_of_rows_is_no_proof():
    answers = np.array([0, 1, 1, 0, 0, 1])
    assert better_order(1 - answers, answers, 2) is None
