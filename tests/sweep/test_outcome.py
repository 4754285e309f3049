"""Which trials are feasible, on the front and chosen, from figures that can be followed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compressor.stored_types import to_plain
from compressor.sweep.outcome import (
    Figures,
    Judged,
    Outcome,
    best_of,
    closest_words,
    excesses,
    is_feasible,
    outcome_of,
    pareto_front,
)
from compressor.sweep.settings import Sweep
from compressor.sweep.space import Choices


def sweep(*objectives: str, choose: str | None = None, **constraints: float) -> Sweep:
    ways = {"score": "maximize", "speedup": "maximize"}
    return Sweep.model_validate(
        {
            "recipe": Path("recipe.yaml"),
            "space": {"a": Choices(choices=(1,))},
            "objectives": {name: ways.get(name, "minimize") for name in objectives},
            "constraints": constraints,
            "choose": choose,
            "trials": 9,
        }
    )


def done(score: float, megabytes: float, latency_ms: float = 1.0) -> Outcome:
    size, speedup = round(megabytes * 1e6), 4.0 / latency_ms
    return Outcome(
        "done", figures=Figures("accuracy", score, 0.9 - score, size, latency_ms, speedup)
    )


def trials(*outcomes: Outcome) -> list[Judged]:
    return [
        Judged(number, {"a": "1"}, (f"a={number}",), outcome)
        for number, outcome in enumerate(outcomes, start=1)
    ]


OVER = Outcome("over_budget", "passes[0]: fell too far", over=0.03)
REFUSED = Outcome("refused", "a: unknown key")


def test_a_constraint_that_is_just_kept_is_kept():
    limits = sweep("score", drop=0.02, bytes=5_000_000, latency_ms=2.0, speedup=2.0)
    assert is_feasible(limits, done(0.88, 5, 2.0))
    assert not is_feasible(limits, done(0.8799, 5, 2.0))
    assert not is_feasible(limits, done(0.88, 5.1, 2.0))
    assert not is_feasible(limits, done(0.88, 5, 2.1))
    assert not is_feasible(sweep("score", score=0.89), done(0.88, 5))


def test_an_excess_counts_in_points_or_as_a_part_of_the_limit():
    limits = sweep("score", drop=0.02, bytes=5_000_000, speedup=4.0)
    found = excesses(limits, done(0.86, 6, 2.0))
    assert found == pytest.approx({"drop": 2.0, "bytes": 0.2, "speedup": 1.0})


def test_what_was_not_done_is_never_feasible():
    assert [is_feasible(sweep("score"), item) for item in (OVER, REFUSED)] == [False, False]
    assert excesses(sweep("score"), OVER) == pytest.approx({"gate": 3.0})


def test_the_front_holds_what_no_other_trial_dominates():
    found = trials(done(0.90, 9), done(0.88, 5), done(0.87, 6), done(0.85, 3), OVER)
    assert pareto_front(sweep("score", "bytes"), found) == [1, 2, 4]


def test_a_third_objective_keeps_more_on_the_front():
    found = trials(done(0.90, 9, 3), done(0.88, 5, 3), done(0.87, 6, 1), done(0.87, 6, 2))
    assert pareto_front(sweep("score", "bytes"), found) == [1, 2]
    assert pareto_front(sweep("score", "bytes", "latency_ms"), found) == [1, 2, 3]
    assert pareto_front(sweep("score", "bytes", "speedup"), found) == [1, 2, 3]


def test_trials_that_are_alike_are_all_on_the_front():
    assert pareto_front(sweep("score"), trials(done(0.9, 9), done(0.9, 5))) == [1, 2]


def test_what_breaks_a_constraint_neither_is_on_the_front_nor_keeps_others_off():
    found = trials(done(0.90, 9), done(0.80, 3), done(0.88, 5))
    assert pareto_front(sweep("bytes", drop=0.05), found) == [3]


def test_the_best_is_that_of_the_objective_which_chooses():
    found = trials(done(0.90, 9), done(0.88, 5), done(0.85, 3))
    assert best_of(sweep("score", "bytes"), found) is found[0]
    assert best_of(sweep("score", "bytes", choose="bytes"), found) is found[2]
    assert best_of(sweep("bytes", drop=0.03), found) is found[1]


def test_of_equals_the_other_objectives_decide_and_then_who_came_first():
    found = trials(done(0.88, 9), done(0.88, 5), done(0.88, 5))
    assert best_of(sweep("score", "bytes"), found) is found[1]
    assert best_of(sweep("score"), found) is found[0]


def test_without_a_feasible_trial_none_is_best_and_the_closest_is_told():
    limits = sweep("score", drop=0.01, bytes=5_000_000)
    found = trials(OVER, done(0.80, 4), done(0.885, 5.5), REFUSED)
    assert best_of(limits, found) is None
    told = closest_words(limits, found)
    assert told == (
        "trial 3 came closest (a=3): the score fell by 1.5 points, 1 point allowed; 5.5 MB, at "
        "most 5 MB allowed"
    )


def test_where_none_was_done_the_gate_that_was_missed_least_is_told():
    worse = Outcome("over_budget", "passes[0]: fell much too far", over=0.3)
    told = closest_words(sweep("score"), trials(REFUSED, worse, OVER))
    assert told == "trial 3 came closest (a=3): passes[0]: fell too far"


@pytest.mark.parametrize("outcome", [done(0.9, 5), OVER, REFUSED])
def test_an_outcome_is_read_back_as_it_was_written(outcome: Any):
    assert outcome_of(to_plain(outcome, {})) == outcome
