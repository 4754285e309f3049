"""The page of a sweep shows every trial, and draws those that were measured."""

from __future__ import annotations

import dataclasses

from compressor.report.front import FrontPage, Measured, TrialRow, render_front_html

PAGE = FrontPage(
    name="sweep.yaml",
    headline="3 of 3 trials",
    metric="accuracy",
    facts=(("sampler", "grid"),),
    baseline=Measured(0.9, 10_000_000, 8.0),
    max_drop=0.02,
    trials=(
        TrialRow(1, ("a=1",), "best", True, Measured(0.89, 5_000_000, 4.0)),
        TrialRow(2, ("a=2",), "over", False, Measured(0.80, 4_000_000, 2.0)),
        TrialRow(3, ("a=3",), "none", False, None, "refused: a <b>"),
    ),
    best_recipe="passes: []\n",
)


def test_every_trial_stands_in_the_table():
    page = render_front_html(PAGE)
    for text in ("a=1", "a=2", "a=3", "89.00%", "−1.00", "−10.00", "refused: a &lt;b&gt;"):
        assert text in page
    assert page.count("<tr class=") == 3


def test_score_is_drawn_against_size_and_latency():
    page = render_front_html(PAGE)
    assert "Score against size on disk" in page
    assert "Score against latency" in page
    assert "lowest the budget allows: 88.00%" in page  # trial 2 breaks a constraint


def test_without_times_there_is_neither_their_chart_nor_their_column():
    untimed = [
        dataclasses.replace(
            item, measured=item.measured and dataclasses.replace(item.measured, latency_ms=None)
        )
        for item in PAGE.trials
    ]
    baseline = Measured(0.9, 10_000_000, None)
    page = render_front_html(dataclasses.replace(PAGE, trials=tuple(untimed), baseline=baseline))
    assert "Score against latency" not in page
    assert "times faster" not in page


def test_a_sweep_without_a_trial_that_was_done_has_no_chart():
    page = render_front_html(dataclasses.replace(PAGE, trials=PAGE.trials[2:], baseline=None))
    assert "<svg viewBox" not in page
    assert "refused: a &lt;b&gt;" in page
