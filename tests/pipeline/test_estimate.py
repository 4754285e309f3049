"""What a run has left, told from what its steps took; the clock is moved by hand."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from compressor.data import DataSettings, SplitSource
from compressor.passes import OnnxPass, TorchPass
from compressor.passes.effort import Effort
from compressor.passes.prune_structured.settings import PruneByScores
from compressor.passes.quantize.settings import QuantizeDynamic
from compressor.pipeline.estimate import Cost, Estimate, Pace, WatchedProgress, plan_of
from compressor.progress import SILENT
from compressor.recipe.budget import AccuracyBudget, CompressionTarget
from compressor.recipe.recipe import BenchmarkSettings, ModelSettings, Recipe

ROWS = {"search": 100, "train": 1000}


class Clock:
    """A clock that stands still until it is told to move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Unsaid(TorchPass):
    """A pass that says nothing about its effort."""

    kind: Literal["unsaid"] = "unsaid"


def recipe(*passes: TorchPass | OnnxPass, **more: Any) -> Recipe:
    return Recipe(
        model=ModelSettings(checkpoint="org/model"),
        data=DataSettings(text="text", search=SplitSource(path="rows.csv")),
        budget=more.pop("budget", AccuracyBudget(max_drop=0.1)),
        passes=passes,
        benchmark=BenchmarkSettings(providers=()),
        **more,
    )


def planned(*passes: TorchPass | OnnxPass, clock: Clock | None = None, **more: Any) -> Estimate:
    pace = Pace(seconds=0.01, tokens=20)
    return plan_of(recipe(*passes, **more), ROWS, pace, threads=1, clock=clock or Clock())


def test_steps_that_are_measured_tell_what_later_ones_cost():
    estimate = Estimate(Clock(), rates={"untouched row": 0.01})
    estimate.expect("baseline: export", Cost("export"))
    estimate.expect("export", Cost("export"))
    estimate.expect("score", Cost("untouched row", 200))
    estimate.finished("baseline: export", 12.0)
    assert estimate.remaining() == pytest.approx(12 + 2)


def test_what_the_baseline_took_corrects_what_the_first_rows_told():
    estimate = Estimate(Clock(), rates={"untouched row": 0.01})
    estimate.expect("baseline: score", Cost("untouched row", 100))
    estimate.expect("certification", Cost("untouched row", 300))
    assert estimate.remaining() == pytest.approx(1 + 3)
    estimate.finished("baseline: score", 5.0)
    assert estimate.remaining() == pytest.approx(15)


def test_the_step_under_way_counts_down():
    clock = Clock()
    estimate = Estimate(clock, rates={"untouched row": 0.1})
    estimate.expect("score", Cost("untouched row", 100))
    estimate.started("score")
    clock.now = 4.0
    assert estimate.remaining() == pytest.approx(6)


def test_a_step_that_takes_longer_than_expected_never_has_less_than_a_tenth_left():
    clock = Clock()
    estimate = Estimate(clock, rates={"untouched row": 0.1})
    estimate.expect("score", Cost("untouched row", 100))
    estimate.started("score")
    clock.now = 50.0
    assert estimate.remaining() == pytest.approx(1)


def test_the_bar_of_a_long_step_tells_what_it_has_left():
    clock = Clock()
    estimate = Estimate(clock, rates={"untouched row": 0.1})
    estimate.expect("train", Cost("untouched row", 1000))  # 100 seconds, and it will be 400
    estimate.started("train")
    with WatchedProgress(SILENT, estimate).bar("training", 40) as advance:
        clock.now = 100.0
        advance(10)
        assert estimate.remaining() == pytest.approx(300)


def test_a_short_bar_within_a_step_does_not_stand_for_all_of_it():
    clock = Clock()
    estimate = Estimate(clock, rates={"untouched row": 0.1})
    estimate.expect("prune", Cost("untouched row", 1000))
    estimate.started("prune")
    with WatchedProgress(SILENT, estimate).bar("measuring", 10) as advance:
        clock.now = 5.0
        advance(5)
        assert estimate.remaining() == pytest.approx(95)


def test_nothing_is_told_before_anything_was_measured():
    assert plan_of(recipe(), ROWS, None, threads=1).remaining() is None


def test_a_pass_that_says_nothing_leaves_the_rest_unknown_until_it_is_over():
    estimate = planned(Unsaid())
    assert estimate.remaining() is None
    estimate.finished("passes[0] (unsaid)", 3.0)
    assert estimate.remaining() is not None


def test_every_step_of_a_plain_run_is_planned_under_its_stored_name():
    assert list(planned(QuantizeDynamic()).costs) == [
        "baseline: reading", "baseline: score", "baseline: export", "baseline: parity",
        "baseline: flops", "checkpoint", "export", "parity", "passes[0] (quantize_dynamic)",
        "passes[0] (quantize_dynamic): score", "artifact", "artifact: score", "artifact: flops",
        "seal",
    ]  # fmt: skip


def test_a_repair_is_expected_to_take_what_the_try_before_it_took():
    estimate = Estimate(Clock(), rates={"untouched row": 0.01})
    estimate.expect("passes[0] (a)", Cost("untouched row", 10, teaches=False))
    estimate.finished("passes[0] (a)", 70.0)
    estimate.expect_again("passes[0] (a), ratio 0.8 -> 0.6", "passes[0] (a)")
    assert estimate.remaining() == pytest.approx(70)


def test_a_search_has_as_many_candidates_left_as_it_may_still_try():
    clock = Clock()
    target = AccuracyBudget(max_drop=0.1, target=CompressionTarget(max_megabytes=1))
    estimate = planned(PruneByScores(ratio=0.5), clock=clock, budget=target)
    whole = estimate.remaining()
    estimate.searching(4)
    clock.now = 50.0
    estimate.searching(3)
    after = estimate.remaining()
    estimate.searching(0)
    rest = estimate.remaining()
    assert whole is not None
    assert after is not None
    assert rest is not None
    assert after - rest == pytest.approx(150)  # three more of 50 seconds


def test_a_longer_training_is_a_greater_effort_in_proportion():
    short = PruneByScores(ratio=0.5, recovery={"kind": "distill", "max_steps": 10})
    long = PruneByScores(ratio=0.5, recovery={"kind": "distill", "max_steps": 30})
    rows = {"train": 100_000, "calibration": 0}
    assert long.effort(rows).rows == pytest.approx(3 * short.effort(rows).rows)


def test_efforts_add_up():
    assert Effort(3, 1) + Effort(2, 4) == Effort(5, 5)


def test_a_step_that_ends_while_a_display_asks_what_is_left_does_not_disturb_it():
    class Ending(Clock):
        """A clock that another thread looks at just as a step ends."""

        def __call__(self) -> float:
            estimate.skipped("export", "score")
            return self.now

    estimate = Estimate(rates={"untouched row": 0.1})
    estimate.expect("score", Cost("untouched row", 100))
    estimate.expect("export", Cost("untouched row", 50))
    estimate.started("score")
    estimate.clock, estimate._since = Ending(), 0.0
    assert estimate.remaining() == pytest.approx(15)
