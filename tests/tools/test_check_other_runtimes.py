"""What counts as the same answer of another runtime."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def checking(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_other_runtimes")


def test_class_logits_are_alike_where_the_same_class_is_largest(checking: ModuleType):
    expected = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.5]], np.float32)
    alike, largest = checking.compare(expected, [[2.5, 1.0, 0.0, 2.0], [0.5, 0.75]])
    assert alike == pytest.approx(2 / 3)
    assert largest == 0.5


def test_vectors_are_alike_where_they_point_the_same_way(checking: ModuleType):
    expected = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    alike, _ = checking.compare(expected, [[1.0, 0.01, 0.6, 0.8]])
    assert alike == 0.5
