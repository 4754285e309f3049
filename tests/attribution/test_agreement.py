"""Agreements by SciPy and by hand, and what proves nothing about them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compressor.attribution.agreement import (
    agreements,
    judge_agreement,
    kendall_agreement,
    rank_agreement,
    sampled_rows,
    uninformed_agreements,
)
from compressor.errors import StepFailed
from compressor.proof import AttributionRecord


def drawn(count: int, noise: float, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return attributions of examples of 6 to 30 pieces, and the same with some noise."""
    random = np.random.default_rng(seed)
    before = [random.normal(size=random.integers(6, 30)) for _ in range(count)]
    return before, [own + noise * random.normal(size=len(own)) for own in before]


def judged(
    before: list[np.ndarray],
    after: list[np.ndarray],
    min_agreement: float,
    sizes: list[np.ndarray] | None = None,
) -> AttributionRecord:
    return judge_agreement(
        agreements(before, after),
        uninformed_agreements(before, sizes or [np.ones(len(own)) for own in before]),
        min_agreement=min_agreement,
        confidence=0.95,
        seed=0,
        explained="logit",
        resamples=999,  # a run takes ten times as many
    )


@pytest.mark.parametrize("seed", range(5))
def test_agreements_with_ties_are_scipys(seed: int):
    random = np.random.default_rng(seed)
    before, after = random.integers(0, 4, (2, 12)).astype(float)
    spearman, tau = stats.spearmanr(before, after), stats.kendalltau(before, after)
    assert rank_agreement(before, after) == pytest.approx(spearman.statistic)
    assert kendall_agreement(before, after) == pytest.approx(tau.statistic)


def test_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15), and 4 of 6 pairs keep their order.
    before, after = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 3.0])
    assert rank_agreement(before, after) == pytest.approx(0.6)
    assert kendall_agreement(before, after) == pytest.approx((4 - 2) / 6)


def test_another_scale_changes_nothing():
    before = np.array([0.3, -1.0, 2.0, 0.1])
    assert rank_agreement(before, 1e-9 * before + 5) == 1.0


def test_what_the_checkpoint_does_not_tell_apart_is_left_out():
    found = agreements(
        [np.array([1.0, 2.0]), np.ones(5), np.arange(5.0), np.zeros(0)],
        [np.array([1.0, 2.0]), np.arange(5.0), np.arange(5.0), np.zeros(0)],
    )
    assert np.isnan(found).tolist() == [True, True, False, True]


def test_a_model_that_looks_at_nothing_agrees_by_0():
    assert agreements([np.arange(5.0)], [np.zeros(5)]).tolist() == [0.0]


def test_one_row_of_a_unit_is_drawn_and_none_that_is_not_judged():
    units = np.array([0, 0, 0, 1, 1, -1, 2])
    rows = sampled_rows(7, 10, seed=3, units=units)
    assert sorted(units[rows].tolist()) == [0, 1, 2]
    assert rows.tolist() == sorted(rows.tolist())


def test_the_same_rows_are_drawn_for_every_model():
    first, second, other = (sampled_rows(500, 100, seed=seed) for seed in (1, 1, 2))
    assert len(set(first.tolist())) == 100
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_nearly_the_same_attributions_are_certified():
    proof = judged(*drawn(100, 0.05), 0.8)
    assert proof.verdict == "certified"
    assert 0.8 <= proof.lower_bound < proof.agreement <= proof.upper_bound <= 1
    assert proof.uninformed_most < 0.8


def test_unrelated_attributions_are_refuted():
    before, after = drawn(100, 1e9)
    proof = judged(before, after, 0.8)
    assert proof.verdict == "refuted"
    assert abs(proof.agreement) < 0.15


def test_a_few_examples_prove_nothing():
    proof = judged(*drawn(8, 0.3), 0.9)
    assert proof.verdict == "inconclusive"
    assert proof.lower_bound < 0.9


def test_where_position_alone_would_pass_nothing_is_proven():
    # Attributions that fall along a text: whoever says "the first word" agrees as well.
    before = [-np.arange(12.0) + 0.01 * np.random.default_rng(n).normal(size=12) for n in range(60)]
    proof = judged(before, before, 0.8)
    assert proof.agreement == 1.0
    assert proof.verdict == "inconclusive"
    assert proof.uninformed == "attributions that fall from the first piece to the last"


def test_where_the_size_of_a_piece_alone_would_pass_nothing_is_proven():
    before, _ = drawn(60, 0.0)
    proof = judged(before, before, 0.8, sizes=[own + 3 for own in before])
    assert proof.verdict == "inconclusive"
    assert proof.uninformed == "attributions by how much of the input a piece is"


def test_too_few_examples_are_told():
    with pytest.raises(StepFailed, match="of 4 examples 4 have pieces"):
        judged(*drawn(4, 0.1), 0.5)
