"""The scores agree with scikit-learn, and their bounds with exact ones where those exist."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from compressor.certificate import f1_macro, matthews_correlation
from compressor.certificate.bootstrap import bca_upper_bound

Classes = NDArray[np.int64]


def answers(seed: int, *, size: int, num_classes: int, accuracy: float) -> tuple[Classes, Classes]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=size)
    guesses = rng.integers(num_classes, size=size)
    return np.where(rng.random(size) < accuracy, labels, guesses), labels


def accuracy(outcomes: Classes, labels: Classes) -> NDArray[np.float64]:
    return np.asarray((outcomes == labels).mean(axis=-1))


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed: int, num_classes: int):
    outcomes, labels = answers(seed, size=60, num_classes=num_classes, accuracy=0.7)
    assert f1_macro(outcomes, labels) == pytest.approx(
        f1_score(labels, outcomes, average="macro", zero_division=0.0)
    )
    assert matthews_correlation(outcomes, labels) == pytest.approx(
        matthews_corrcoef(labels, outcomes)
    )


def test_scores_of_several_resamples_are_those_of_each():
    outcomes, labels = answers(0, size=30, num_classes=3, accuracy=0.6)
    rows = np.random.default_rng(1).integers(30, size=(2, 5, 30))
    scores = f1_macro(outcomes[rows], labels[rows])  # (2, 5)
    correlations = matthews_correlation(outcomes[rows], labels[rows])
    assert scores.shape == correlations.shape == (2, 5)
    assert scores[1, 3] == pytest.approx(f1_macro(outcomes[rows[1, 3]], labels[rows[1, 3]]))
    assert correlations[1, 3] == pytest.approx(
        matthews_corrcoef(labels[rows[1, 3]], outcomes[rows[1, 3]])
    )


def test_a_class_that_does_not_occur_does_not_count_in_f1():
    outcomes, labels = np.array([0, 0, 5, 5]), np.array([0, 0, 5, 0])
    # Class 0: 2 * 2 / (2 + 3), class 5: 2 * 1 / (2 + 1); classes 1 to 4 are absent.
    assert f1_macro(outcomes, labels) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_the_correlation_is_zero_when_every_answer_is_the_same():
    assert matthews_correlation(np.array([1, 1, 1]), np.array([0, 1, 1])) == 0.0


def test_without_flips_the_bound_of_a_rate_is_the_exact_one_or_up_to_two_examples_more():
    outcomes, labels = answers(0, size=600, num_classes=2, accuracy=0.9)
    upper, _ = bca_upper_bound(
        accuracy, outcomes, outcomes, labels, confidence=0.95, seed=0, resamples=4000
    )
    exact = stats.binomtest(0, 600, alternative="less").proportion_ci(0.95, method="exact").high
    assert exact <= upper <= exact + 2.1 / 600  # 2.1: one of the 601 rows is the added flip


def test_with_losses_only_the_bound_of_a_rate_is_close_to_the_exact_one():
    outcomes, labels = answers(0, size=800, num_classes=2, accuracy=1.0)
    after = outcomes.copy()
    after[:12] = 1 - after[:12]
    upper, error = bca_upper_bound(
        accuracy, outcomes, after, labels, confidence=0.95, seed=0, resamples=4000
    )
    exact = stats.binomtest(12, 800, alternative="less").proportion_ci(0.95, method="exact").high
    assert upper == pytest.approx(exact, abs=2 / 800)
    # 13 of 801 examples are lost: the standard error of a rate, to the noise of 4000 resamples.
    assert error == pytest.approx(np.sqrt(13 / 801 * 788 / 801 / 801), rel=0.05)


def test_the_added_flip_goes_to_the_rare_class_of_macro_f1():
    labels = np.array([0] * 95 + [1] * 5)
    upper, _ = bca_upper_bound(
        f1_macro, labels, labels, labels, confidence=0.95, seed=0, resamples=2000
    )
    # One of six lost: F1 of the rare class is 10 / 11, so the mean falls by at least 1 / 22.
    assert upper > 1 / 22


def test_the_same_seed_gives_the_same_bound():
    outcomes, labels = answers(3, size=200, num_classes=3, accuracy=0.8)
    after = np.where(np.arange(200) % 20 == 0, (outcomes + 1) % 3, outcomes)
    first, second = (
        bca_upper_bound(f1_macro, outcomes, after, labels, confidence=0.9, seed=5, resamples=500)
        for _ in range(2)
    )
    assert first == second


def test_a_score_that_never_varies_has_no_bound():
    outcomes, labels = answers(0, size=50, num_classes=2, accuracy=0.8)

    def constant(given: Classes, truth: Classes) -> NDArray[np.float64]:
        return np.zeros(given.shape[:-1])

    with pytest.raises(ValueError, match="constant: the drop is the same in all 100 resamples"):
        bca_upper_bound(
            constant, outcomes, outcomes, labels, confidence=0.95, seed=0, resamples=100
        )


def test_a_single_class_leaves_nothing_to_get_wrong():
    ones = np.ones(20, dtype=np.int64)
    with pytest.raises(ValueError, match="labels and answers are all class 1"):
        bca_upper_bound(f1_macro, ones, ones, ones, confidence=0.95, seed=0, resamples=100)
