"""A verdict follows from its bounds, and says what would settle it when it is open."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from compressor.certificate import (
    certify_agreement,
    certify_metric,
    certify_paired,
    certify_slices,
    f1_macro,
    tango_upper_bound,
)

ROOT = Path(__file__).parents[2]
Z = stats.norm.ppf(0.95)


def outcomes(losses: int, wins: int, size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return before and after: losses first, then wins, the rest right both times."""
    before, after = np.ones(size, dtype=bool), np.ones(size, dtype=bool)
    after[:losses] = False
    before[losses : losses + wins] = False
    return before, after


def test_a_small_drop_on_many_examples_is_certified():
    found = certify_paired(*outcomes(30, 25, 10_000), max_drop=0.01)
    assert found.verdict == "certified"
    assert found.drop == pytest.approx(0.0005)
    assert (found.losses, found.wins, found.num_examples) == (30, 25, 10_000)
    assert found.lower_bound < found.drop < found.upper_bound <= found.max_drop
    assert found.needed_examples is None


def test_the_same_rates_on_few_examples_are_inconclusive():
    found = certify_paired(*outcomes(3, 2, 200), max_drop=0.01)
    assert found.verdict == "inconclusive"
    # Two normal quantiles, (1.645 + 0.842)^2 * (5 / 200) / (0.01 - 0.005)^2, say 6,183; that the
    # bound is corrected for whole numbers costs a few per cent more.
    normal = (Z + stats.norm.ppf(0.8)) ** 2 * 0.025 / 0.005**2
    assert found.needed_examples is not None
    assert normal < found.needed_examples < 1.1 * normal


def test_a_large_drop_is_refuted_and_needs_no_more_examples():
    found = certify_paired(*outcomes(60, 5, 1000), max_drop=0.01)
    assert found.verdict == "refuted"
    assert found.lower_bound > 0.01
    assert found.needed_examples is None


def test_a_drop_above_the_limit_that_is_not_refuted_cannot_be_settled_by_more_of_the_same():
    found = certify_paired(*outcomes(8, 5, 200), max_drop=0.01)
    assert found.verdict == "inconclusive"
    assert found.drop > 0.01
    assert found.needed_examples is None


def test_without_a_flip_the_needed_examples_are_the_fewest_that_certify():
    found = certify_paired(*outcomes(0, 0, 100), max_drop=0.01)
    assert found.verdict == "inconclusive"
    needed = found.needed_examples
    assert needed is not None
    assert certify_paired(*outcomes(0, 0, needed), max_drop=0.01).verdict == "certified"
    assert certify_paired(*outcomes(0, 0, needed - 1), max_drop=0.01).verdict == "inconclusive"


def test_a_budget_of_zero_is_certified_by_wins_only():
    assert certify_paired(*outcomes(0, 20, 500), max_drop=0.0).verdict == "certified"
    assert certify_paired(*outcomes(0, 0, 500), max_drop=0.0).verdict == "inconclusive"
    assert certify_paired(*outcomes(20, 0, 500), max_drop=0.0).verdict == "refuted"


def test_one_example_is_never_enough():
    assert certify_paired(*outcomes(0, 0, 1), max_drop=0.01).verdict == "inconclusive"
    assert certify_paired(*outcomes(1, 0, 1), max_drop=0.01).verdict == "inconclusive"


def test_exchanging_the_models_mirrors_the_bounds():
    before, after = outcomes(12, 4, 300)
    there = certify_paired(before, after, max_drop=0.01)
    back = certify_paired(after, before, max_drop=0.01)
    assert back.lower_bound == pytest.approx(-there.upper_bound)
    assert back.upper_bound == pytest.approx(-there.lower_bound)


def test_more_confidence_needs_a_wider_bound():
    usual = certify_paired(*outcomes(8, 1, 872), max_drop=0.02, confidence=0.95)
    strict = certify_paired(*outcomes(8, 1, 872), max_drop=0.02, confidence=0.99)
    assert strict.upper_bound > usual.upper_bound
    assert strict.lower_bound < usual.lower_bound


def test_a_certificate_cannot_be_changed():
    found = certify_paired(*outcomes(0, 0, 10), max_drop=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.verdict = "refuted"  # type: ignore[misc]


@pytest.mark.parametrize("flips", [0, 1, 8, 200])
def test_the_bounds_of_agreement_are_clopper_and_pearsons(flips: int):
    found = certify_agreement(np.arange(200) < flips, max_drop=0.05)
    # The beta quantiles of Clopper and Pearson 1934, with their limits at the ends.
    upper = stats.beta.ppf(0.95, flips + 1, 200 - flips) if flips < 200 else 1.0
    lower = stats.beta.ppf(0.05, flips, 201 - flips) if flips > 0 else 0.0
    assert found.upper_bound == pytest.approx(upper)
    assert found.lower_bound == pytest.approx(lower)
    assert (found.metric, found.losses, found.wins) == ("agreement", flips, 0)
    assert found.drop == flips / 200


def test_agreement_without_flips_needs_the_exact_number_of_examples():
    found = certify_agreement(np.zeros(100, dtype=bool), max_drop=0.01)
    assert found.verdict == "inconclusive"
    assert found.needed_examples == math.ceil(math.log(0.05) / math.log(0.99))  # 299


def test_a_metric_is_certified_when_nothing_flips_on_enough_examples():
    labels = np.arange(600) % 2
    found = certify_metric(f1_macro, labels, labels, labels, max_drop=0.01, seed=0, resamples=500)
    assert found.verdict == "certified"
    assert (found.metric, found.drop, found.losses, found.wins) == ("f1_macro", 0.0, 0, 0)
    assert found.lower_bound < 0 < found.upper_bound


def test_a_metric_is_refuted_when_much_is_lost():
    labels = np.arange(600) % 3
    after = np.where(np.arange(600) < 60, (labels + 1) % 3, labels)
    found = certify_metric(f1_macro, labels, after, labels, max_drop=0.02, seed=0, resamples=500)
    assert found.verdict == "refuted"
    assert (found.losses, found.wins) == (60, 0)


def test_a_metric_on_few_examples_is_inconclusive_and_asks_for_more():
    labels = np.arange(60) % 2
    found = certify_metric(f1_macro, labels, labels, labels, max_drop=0.02, seed=0, resamples=500)
    assert found.verdict == "inconclusive"
    assert found.needed_examples is not None
    assert found.needed_examples > 60


def test_slices_are_tested_at_holms_levels():
    before, after = outcomes(2, 1, 3000)
    after[1000:1060] = False
    slices = {
        "bad": (np.arange(3000) >= 1000) & (np.arange(3000) < 2000),
        "small": np.arange(3000) < 250,
        "clean": np.arange(3000) >= 2000,
    }
    found = certify_slices(slices, before, after, max_drop=0.01)
    assert list(found) == ["bad", "small", "clean"]
    assert [item.verdict for item in found.values()] == ["refuted", "inconclusive", "certified"]
    # The clearest of three at 5% / 3; the next fails at 5% / 2, and so the last is tested there.
    assert [1 - item.confidence for item in found.values()] == pytest.approx(
        [0.025, 0.025, 0.05 / 3]
    )
    assert found["clean"].upper_bound == pytest.approx(
        tango_upper_bound(0, 0, 1000, confidence=1 - 0.05 / 3)
    )


def test_a_slice_that_would_pass_alone_can_fail_among_many():
    before, after = outcomes(0, 0, 3300)
    alone = certify_slices({"0": np.arange(3300) < 330}, before, after, max_drop=0.01)
    places = {str(k): np.arange(3300) // 330 == k for k in range(10)}
    among = certify_slices(places, before, after, max_drop=0.01)
    assert alone["0"].verdict == "certified"
    assert {item.verdict for item in among.values()} == {"inconclusive"}


def test_certifying_slices_wrongly_is_as_rare_as_one_wrong_certificate():
    # 200 data sets of 5 slices, each with a true drop of exactly 2%; 5% may hold a wrong verdict,
    # and 10 + 4 * sqrt(200 * 0.05 * 0.95) is more than chance explains.
    rng = np.random.default_rng(0)
    slices = {str(k): np.arange(2000) // 400 == k for k in range(5)}
    kinds = rng.choice(3, p=[0.03, 0.01, 0.96], size=(200, 2000))  # lost, won, the same
    wrong = sum(
        any(
            item.verdict == "certified"
            for item in certify_slices(slices, kind != 1, kind != 0, max_drop=0.02).values()
        )
        for kind in kinds
    )
    assert 1 <= wrong <= 22


RIGHT = np.ones(10, dtype=bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certify_paired(RIGHT, RIGHT, max_drop=1.0), "max_drop: must be at least 0"),
        (lambda: certify_paired(RIGHT, RIGHT, max_drop=math.nan), "max_drop: must be at least 0"),
        (
            lambda: certify_paired(RIGHT, RIGHT, max_drop=0.1, confidence=0.5),
            "confidence: must lie strictly between 0.5 and 1",
        ),
        (
            lambda: certify_paired(RIGHT, RIGHT[:9], max_drop=0.1),
            "after_right: must be true or false for each example, the same examples as in "
            r"before_right, got bool of shape \(9,\)",
        ),
        (lambda: certify_paired(RIGHT[:0], RIGHT[:0], max_drop=0.1), r"got bool of shape \(0,\)"),
        (lambda: certify_agreement(RIGHT * 1.0, max_drop=0.1), "got float64"),
        (
            lambda: certify_metric(f1_macro, RIGHT, RIGHT, RIGHT, max_drop=0.1, seed=0),
            "before_outcomes: must be a class",
        ),
        (
            lambda: certify_metric(
                f1_macro, RIGHT * 1, RIGHT * 1, RIGHT * -1, max_drop=0.1, seed=0
            ),
            r"labels: must be a class .* got int64 of shape \(10,\) with negative entries",
        ),
        (lambda: certify_slices({}, RIGHT, RIGHT, max_drop=0.1), "at least one slice"),
        (
            lambda: certify_slices({"rare": ~RIGHT}, RIGHT, RIGHT, max_drop=0.1),
            r"slices\['rare'\]: must hold at least one example",
        ),
        (
            lambda: certify_slices({"rare": RIGHT[:3]}, RIGHT, RIGHT, max_drop=0.1),
            r"the same examples as in slices\['rare'\]",
        ),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_simulation_finds_no_more_than_one_wrong_verdict_in_twenty():
    script = ROOT / "tools" / "simulate_certificate.py"
    result = subprocess.run(
        [sys.executable, str(script), "--quick", "--draws", "20000"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "too high" not in result.stdout
