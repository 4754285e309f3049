"""The scores agree with scikit-learn, and their bounds with exact ones where those exist."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from compressor.certificate import f1_macro, matthews_correlation
from compressor.certificate.bootstrap import (
    ClassCounts,
    Drop,
    MeanDrop,
    MetricDrop,
    MetricFunction,
    acceleration,
    bca_upper_bound,
    count_classes,
    resampled_bound,
)
from compressor.certificate.ranks import SpearmanDrop

Classes = NDArray[np.int64]
Floats = NDArray[np.float64]
RowFunction = Callable[[Classes], float]  # row numbers to a drop


def guessed(seed: int, *, size: int, num_classes: int, accuracy: float) -> tuple[Classes, Classes]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=size)
    guesses = rng.integers(num_classes, size=size)
    return np.where(rng.random(size) < accuracy, labels, guesses), labels


def accuracy(counts: ClassCounts) -> Floats:
    return np.asarray(counts.hits.sum(axis=-1) / counts.actual.sum(axis=-1))


@pytest.mark.parametrize("num_classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed: int, num_classes: int):
    outcomes, labels = guessed(seed, size=60, num_classes=num_classes, accuracy=0.7)
    counts = count_classes(outcomes, labels)
    assert f1_macro(counts) == pytest.approx(
        f1_score(labels, outcomes, average="macro", zero_division=0.0)
    )
    assert matthews_correlation(counts) == pytest.approx(matthews_corrcoef(labels, outcomes))


def test_scores_of_several_counts_are_those_of_each():
    found = [count_classes(*guessed(seed, size=30, num_classes=3, accuracy=0.6)) for seed in (0, 1)]
    together = ClassCounts(
        np.stack([item.hits for item in found]),
        np.stack([item.predicted for item in found]),
        np.stack([item.actual for item in found]),
    )
    assert f1_macro(together).tolist() == [f1_macro(item) for item in found]
    assert matthews_correlation(together) == pytest.approx(
        [float(matthews_correlation(item)) for item in found]
    )


def test_a_class_that_does_not_occur_does_not_count_in_f1():
    outcomes, labels = np.array([0, 0, 5, 5]), np.array([0, 0, 5, 0])
    # Class 0: 2 * 2 / (2 + 3), class 5: 2 * 1 / (2 + 1); classes 1 to 4 are absent.
    assert f1_macro(count_classes(outcomes, labels)) == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_the_correlation_is_zero_when_every_prediction_is_the_same():
    assert matthews_correlation(count_classes(np.array([1, 1, 1]), np.array([0, 1, 1]))) == 0.0


def test_without_flips_the_bound_of_a_rate_is_the_exact_one_or_up_to_two_examples_more():
    outcomes, labels = guessed(0, size=600, num_classes=2, accuracy=0.9)
    upper, _ = bca_upper_bound(
        accuracy, outcomes, outcomes, labels, confidence=0.95, seed=0, resamples=4000
    )
    exact = stats.binomtest(0, 600, alternative="less").proportion_ci(0.95, method="exact").high
    assert exact <= upper <= exact + 2.1 / 600  # 2.1: one of the 601 rows is the added flip


def test_with_losses_only_the_bound_of_a_rate_is_close_to_the_exact_one():
    outcomes, labels = guessed(0, size=800, num_classes=2, accuracy=1.0)
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
    outcomes, labels = guessed(3, size=200, num_classes=3, accuracy=0.8)
    after = np.where(np.arange(200) % 20 == 0, (outcomes + 1) % 3, outcomes)
    first, second = (
        bca_upper_bound(f1_macro, outcomes, after, labels, confidence=0.9, seed=5, resamples=500)
        for _ in range(2)
    )
    assert first == second


def test_a_score_that_never_varies_has_no_bound():
    outcomes, labels = guessed(0, size=50, num_classes=2, accuracy=0.8)

    def constant(counts: ClassCounts) -> Floats:
        return np.zeros(counts.hits.shape[:-1])

    with pytest.raises(ValueError, match="constant: the drop is the same in all 100 resamples"):
        bca_upper_bound(
            constant, outcomes, outcomes, labels, confidence=0.95, seed=0, resamples=100
        )


def test_a_single_class_leaves_nothing_to_get_wrong():
    ones = np.ones(20, dtype=np.int64)
    with pytest.raises(ValueError, match="labels and predictions are all class 1"):
        bca_upper_bound(f1_macro, ones, ones, ones, confidence=0.95, seed=0, resamples=100)


def metric_of_rows(
    metric: MetricFunction, score: Callable[[Classes, Classes], float]
) -> tuple[Drop, RowFunction, int]:
    """Return a drop of three classes, the same by scikit-learn, and how many rows there are."""
    outcomes, labels = guessed(5, size=40, num_classes=3, accuracy=0.8)
    after = np.where(np.arange(40) % 7 == 0, (outcomes + 1) % 3, outcomes)

    def by_rows(rows: Classes) -> float:
        return score(labels[rows], outcomes[rows]) - score(labels[rows], after[rows])

    drop = MetricDrop.of_rows(metric, outcomes, after, labels, num_classes=3)
    return drop, by_rows, 40


def mean_of_rows() -> tuple[Drop, RowFunction, int]:
    losses = np.random.default_rng(2).exponential(0.02, 30).round(2)  # some of them equal
    return MeanDrop.of_rows("cosine", losses), lambda rows: float(losses[rows].mean()), 30


def spearman_of_rows(grades: int) -> tuple[Drop, RowFunction, int]:
    """Return the drop of a rank correlation; few `grades` make many ties, and equal triples."""
    random = np.random.default_rng(4)
    truth = random.integers(0, grades, 32).astype(float)
    before = random.integers(0, grades, 32) + truth
    after = np.where(random.random(32) < 0.6, before, random.integers(0, grades, 32))

    def by_rows(rows: Classes) -> float:
        correlations = (stats.spearmanr(item[rows], truth[rows]) for item in (before, after))
        return float(np.subtract(*(item.statistic for item in correlations)))

    return SpearmanDrop.of_rows("spearman", before, after, truth), by_rows, 32


def f1_by_scikit_learn(labels: Classes, outcomes: Classes) -> float:
    return float(f1_score(labels, outcomes, average="macro", zero_division=0.0))


DROPS = pytest.mark.parametrize(
    "made",
    [
        metric_of_rows(f1_macro, f1_by_scikit_learn),
        metric_of_rows(matthews_correlation, matthews_corrcoef),
        mean_of_rows(),
        spearman_of_rows(3),
        spearman_of_rows(1000),
    ],
    ids=["macro F1", "Matthews", "mean", "Spearman with ties", "Spearman without"],
)


@DROPS
def test_the_drop_without_each_example_is_what_the_other_rows_give(
    made: tuple[Drop, RowFunction, int],
):
    drop, by_rows, size = made
    expected = sorted(by_rows(np.delete(np.arange(size), row)) for row in range(size))
    assert sorted(np.repeat(drop.without_one(), drop.counts)) == pytest.approx(expected, abs=1e-13)


@DROPS
def test_the_acceleration_is_that_of_a_jackknife_over_rows(made: tuple[Drop, RowFunction, int]):
    drop, by_rows, size = made
    left_out = np.array([by_rows(np.delete(np.arange(size), row)) for row in range(size)])
    influence = left_out.mean() - left_out
    expected = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)  # Efron 1987, eq. 7.3
    assert acceleration(drop) == pytest.approx(expected)


@DROPS
def test_the_bound_is_scipys_within_the_noise_of_resampling(made: tuple[Drop, RowFunction, int]):
    drop, by_rows, size = made
    expected = stats.bootstrap(
        (np.arange(size),),
        lambda rows, axis=-1: np.apply_along_axis(lambda row: by_rows(row.astype(int)), axis, rows),
        n_resamples=999,
        confidence_level=0.9,
        alternative="less",
        method="BCa",
        rng=np.random.default_rng(0),
    )
    upper, error = resampled_bound(drop, confidence=0.9, seed=1, resamples=50_000)
    # A quantile of 999 resamples near the 90th is off by up to 4 * sqrt(0.1 * 0.9 / 999) = 3.8
    # points, which in a normal tail (density 0.175) is 0.22 standard errors; their own standard
    # error is off by up to 4 / sqrt(2 * 999) = 9%.
    assert upper == pytest.approx(expected.confidence_interval.high, abs=0.25 * error)
    assert error == pytest.approx(expected.standard_error, rel=0.09)


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize(("size", "num_classes"), [(1_000_000, 2), (20_000, 150)])
def test_the_bound_of_many_rows_or_classes_takes_a_moment(size: int, num_classes: int):
    outcomes, labels = guessed(0, size=size, num_classes=num_classes, accuracy=0.9)
    after = np.where(np.arange(size) % 50 == 0, (outcomes + 1) % num_classes, outcomes)
    spent = cpu_seconds(
        lambda: bca_upper_bound(
            f1_macro, outcomes, after, labels, confidence=0.95, seed=0, resamples=200
        )
    )
    assert spent < 5  # a jackknife over rows takes minutes


def test_the_jackknife_of_a_rank_correlation_does_not_grow_with_the_square_of_the_rows():
    random = np.random.default_rng(0)
    before, after, truth = random.normal(size=(3, 100_000))
    drop = SpearmanDrop.of_rows("spearman", before, after, truth)
    assert cpu_seconds(drop.without_one) < 10  # ranking 100,000 times takes an hour


def test_gaps_between_class_ids_take_no_room():
    outcomes, labels = guessed(1, size=100, num_classes=2, accuracy=0.8)
    bound = bca_upper_bound(
        f1_macro, labels, outcomes, labels, confidence=0.95, seed=0, resamples=200
    )
    far = bca_upper_bound(
        f1_macro,
        labels * 10**9,
        outcomes * 10**9,
        labels * 10**9,
        confidence=0.95,
        seed=0,
        resamples=200,
    )
    assert far == bound
