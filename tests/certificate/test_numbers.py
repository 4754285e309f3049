"""Bounds of means and of rank correlations, against what is known of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from compressor.certificate import (
    certify_correlation,
    certify_each,
    certify_mean,
    certify_quantile,
    certify_scores,
    spearman,
)
from compressor.measurements import Certificate, Score
from compressor.tasks import Guess

ONES = np.ones(400)


def fallen(seed: int, size: int = 400, scale: float = 0.01) -> np.ndarray:
    """Return numbers that fell from 1 by an exponential amount of mean `scale`."""
    return 1 - np.random.default_rng(seed).exponential(scale, size)


def test_the_bound_of_a_mean_is_near_the_normal_one_when_nothing_is_rare():
    after = fallen(0, size=8000)
    proof = certify_mean("cosine", np.ones(8000), after, max_drop=0.02, seed=0, resamples=999)
    lost = np.append(1 - after, 1.0)
    normal = lost.mean() + 1.645 * lost.std() / np.sqrt(len(lost))
    assert proof.drop == pytest.approx((1 - after).mean())
    assert proof.upper_bound == pytest.approx(normal, rel=0.02)
    assert (proof.verdict, proof.num_examples, proof.wins) == ("certified", 8000, 0)


def test_a_mean_that_fell_far_is_refuted_and_one_near_the_budget_is_open():
    far = certify_mean("cosine", ONES, fallen(1, scale=0.1), max_drop=0.02, seed=0)
    assert far.verdict == "refuted"
    assert 0.02 < far.lower_bound < far.drop < far.upper_bound
    near = certify_mean("cosine", ONES, fallen(1, scale=0.018), max_drop=0.02, seed=0)
    assert near.verdict == "inconclusive"
    assert near.needed_examples is not None
    assert near.needed_examples > 400


def test_without_any_loss_the_bound_is_a_few_over_the_number_of_texts():
    proof = certify_mean("rank_agreement", ONES, ONES, max_drop=0.02, seed=0)
    # Exact for a share without a loss: 1 - 0.05^(1/400) = 3.0 / 400.
    assert 3.0 / 400 < proof.upper_bound < 6.0 / 400
    assert (proof.drop, proof.losses, proof.verdict) == (0.0, 0, "certified")


def test_the_same_seed_gives_the_same_bound():
    proofs = [certify_mean("cosine", ONES, fallen(3), max_drop=0.02, seed=7) for _ in range(2)]
    assert proofs[0] == proofs[1]


@pytest.mark.slow
def test_a_mean_at_the_boundary_is_rarely_certified():
    # Shares of kept neighbours in tenths, whose true mean drop is exactly the budget.
    random = np.random.default_rng(0)
    certified = 0
    for seed in range(400):
        lost = random.binomial(10, 0.02, size=300) / 10
        proof = certify_mean(
            "rank_agreement", np.ones(300), 1 - lost, max_drop=0.02, seed=seed, resamples=999
        )
        certified += proof.verdict == "certified"
    # 5% are allowed; three standard deviations of 400 draws above that are 8%.
    assert certified / 400 < 0.08


def test_spearman_on_many_samples_is_scipys_on_each():
    random = np.random.default_rng(0)
    values, grades = random.normal(size=(3, 50)), random.integers(0, 6, (3, 50)).astype(float)
    expected = [stats.spearmanr(*item).statistic for item in zip(values, grades, strict=True)]
    assert spearman(values, grades) == pytest.approx(expected)
    assert spearman(values, np.ones((3, 50))).tolist() == [0.0, 0.0, 0.0]


def test_a_correlation_that_stayed_is_certified_and_one_that_went_is_refuted():
    random = np.random.default_rng(0)
    grades = random.integers(0, 6, 500).astype(float)
    before = grades + random.normal(size=500)
    same = certify_correlation(
        "spearman", before, before, grades, max_drop=0.05, seed=0, resamples=999
    )
    assert (same.verdict, same.drop, same.wins, same.losses) == ("certified", 0.0, 0, 0)
    assert same.upper_bound > 0
    noise = random.normal(size=500)
    gone = certify_correlation(
        "spearman", before, noise, grades, max_drop=0.05, seed=0, resamples=999
    )
    assert gone.verdict == "refuted"
    expected = stats.spearmanr(before, grades).statistic - stats.spearmanr(noise, grades).statistic
    assert gone.drop == pytest.approx(expected)
    assert gone.losses > gone.wins


@pytest.mark.parametrize("beyond", range(0, 30, 3))
def test_a_quantile_is_certified_where_clopper_and_pearson_bound_the_share_beyond(beyond: int):
    after = np.ones(400)
    after[:beyond] = np.linspace(0.5, 0.9, beyond)
    proof = certify_quantile("cosine_p5", ONES, after, quantile=0.05, max_drop=0.05)
    share = stats.binomtest(beyond, 400, alternative="less").proportion_ci(0.95, method="exact")
    assert (proof.verdict == "certified") == (share.high <= 0.05)
    assert proof.losses == beyond
    assert proof.drop == pytest.approx(1 - np.quantile(after, 0.05, method="inverted_cdf"))
    assert proof.lower_bound <= proof.drop <= proof.upper_bound


@pytest.mark.parametrize("size", [59, 100, 400, 1200])
def test_a_quantile_on_the_boundary_is_seldom_certified_or_refuted(size: int):
    """The numbers fell by 0 to 1, all alike, so that one in twenty fell by more than 0.95."""
    random, draws = np.random.default_rng(size), 500
    verdicts = [
        certify_quantile(
            "cosine_p5", np.ones(size), random.random(size), quantile=0.05, max_drop=0.95
        ).verdict
        for _ in range(draws)
    ]
    most = 0.05 + 4 * np.sqrt(0.05 * 0.95 / draws)
    assert verdicts.count("certified") / draws <= most
    assert verdicts.count("refuted") / draws <= most


def test_so_few_numbers_prove_no_quantile_and_it_says_how_many_would():
    few, enough = (
        certify_quantile("cosine_p5", ones, ones, quantile=0.05, max_drop=0.01)
        for ones in (ONES[:58], ONES[:59])
    )
    assert (few.verdict, few.upper_bound, few.needed_examples) == ("inconclusive", 2.0, 59)
    assert (enough.verdict, enough.upper_bound) == ("certified", 0.0)


def test_a_quantile_is_of_numbers_that_were_all_the_same():
    with pytest.raises(ValueError, match=r"must all be the same, got 0\.5 to 1"):
        certify_quantile("cosine_p5", np.array([1, 0.5]), np.ones(2), quantile=0.05, max_drop=0.01)


def each_of(
    masks: dict[str, np.ndarray], before: np.ndarray, after: np.ndarray, *, max_drop: float
) -> dict[str, Certificate]:
    def certify(mask: np.ndarray, confidence: float) -> Certificate:
        return certify_mean(
            "cosine", before[mask], after[mask], max_drop=max_drop, confidence=confidence, seed=0
        )

    return certify_each(masks, certify)


def test_slices_are_tested_at_their_share_of_the_error():
    masks = {"first": np.arange(400) < 100, "rest": np.arange(400) >= 100}
    found = each_of(masks, ONES, fallen(4), max_drop=0.05)
    assert [item.confidence for item in found.values()] == [pytest.approx(0.975)] * 2
    assert found["first"].num_examples == 100
    alone = certify_mean("cosine", ONES[:100], fallen(4)[:100], max_drop=0.05, seed=0)
    assert found["first"].upper_bound > alone.upper_bound


def test_an_empty_slice_is_refused():
    with pytest.raises(ValueError, match=r"empty: \['none'\]"):
        each_of({"none": ONES < 0}, ONES, ONES, max_drop=0.1)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (ONES, ONES[:3], "after: must be a finite number for each example"),
        (ONES, np.full(400, np.nan), "after: must be a finite number"),
        (2 * ONES, ONES, "cosine: no number may be above 1, got 2"),
        (ONES[:0], ONES[:0], "before: must be a finite number"),
    ],
)
def test_numbers_that_do_not_pair_up_are_refused(
    before: np.ndarray, after: np.ndarray, reason: str
):
    with pytest.raises(ValueError, match=reason):
        certify_mean("cosine", before, after, max_drop=0.1, seed=0)


def test_a_score_finds_its_bound():
    outcomes = np.zeros(400, dtype=np.int64)
    before, after = (
        Score("cosine", float(numbers.mean()), 400, outcomes, shares=numbers)
        for numbers in (ONES, fallen(0))
    )
    blind = Score("cosine", 0.0, 400, outcomes, shares=np.zeros(400))
    guesses = (Guess("a model that gives every text the same vector", blind),)
    proof = certify_scores(before, after, None, guesses=guesses, max_drop=0.02, seed=0)
    alone = certify_mean("cosine", ONES, fallen(0), units="texts", max_drop=0.02, seed=0)
    assert dataclasses.replace(proof, uninformed=None) == alone
    assert proof.uninformed is not None
    assert (proof.uninformed.who, proof.uninformed.score) == (guesses[0].who, 0.0)
    assert 0.97 < (proof.uninformed.least_drop or 0.0) <= 1.0


def test_a_quantile_finds_its_bound_and_is_refuted_for_one_vector_for_all():
    outcomes = np.zeros(400, dtype=np.int64)
    before, after, one = (
        Score("cosine_p5", value, 400, outcomes, shares=numbers)
        for value, numbers in ((1.0, ONES), (0.97, fallen(0)), (0.2, ONES / 5))
    )
    guesses = (Guess("a model that gives every text the same vector", one),)
    proof = certify_scores(before, after, None, guesses=guesses, max_drop=0.05, seed=0)
    alone = certify_quantile(
        "cosine_p5", ONES, fallen(0), quantile=0.05, units="texts", max_drop=0.05
    )
    assert dataclasses.replace(proof, uninformed=None) == alone
    assert proof.verdict == "certified"
    near = dataclasses.replace(one, shares=ONES * 0.96)
    guesses = (Guess("a model that gives every text the same vector", near),)
    proof = certify_scores(before, after, None, guesses=guesses, max_drop=0.05, seed=0)
    assert proof.verdict == "inconclusive"


def test_spearman_without_grades_is_refused():
    score = Score("spearman", 0.5, 400, np.zeros(400, dtype=np.int64), shares=ONES)
    with pytest.raises(ValueError, match="spearman cannot be certified without"):
        certify_scores(score, score, None, guesses=(), max_drop=0.02, seed=0)


@pytest.mark.parametrize(("size", "verdict"), [(2, "inconclusive"), (40, "refuted")])
def test_a_slice_that_lost_everything_is_judged_and_no_error(size: int, verdict: str):
    """Every number fell from 1 to 0, as the one that is added, so no resample differs."""
    lost = np.arange(size + 10) < size
    masks = {"short": lost, "long": ~lost}
    before, after = np.ones(len(lost)), np.where(lost, 0.0, 1.0)
    found = each_of(masks, before, after, max_drop=0.1)
    assert (found["short"].drop, found["short"].upper_bound) == (1.0, 1.0)
    assert found["short"].verdict == verdict
