"""A goal in place of a fraction: the mildest rung that reaches it, or the strongest that passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import pytest
from made_up_scores import SEARCH, score

import compressor
from compressor.data import DataSettings, SplitSource
from compressor.errors import BudgetExceeded, PassError, RecipeError, TargetMissed
from compressor.measurements import ComponentBytes, Latency, ModelRecord, RunReport, Score, Size
from compressor.passes import NothingToRemove, OnnxPass, TorchPass
from compressor.passes.prune_structured.settings import PruneByScores
from compressor.passes.repair import lower
from compressor.pipeline import target_search
from compressor.pipeline.cached_steps import Exported, PassResult, Told
from compressor.pipeline.estimate import Estimate
from compressor.pipeline.judge import Judge
from compressor.pipeline.run_record import RunLog
from compressor.pipeline.target_search import Goal, search_fraction
from compressor.progress import SILENT, Progress, Silent
from compressor.recipe.budget import AccuracyBudget, CompressionTarget
from compressor.recipe.recipe import BenchmarkSettings, ModelSettings, Recipe, load_recipe
from compressor.tasks import load_task


class Cut(TorchPass):
    """Takes a fraction of the model away, at a tenth of it in accuracy."""

    kind: Literal["cut"] = "cut"
    ratio: float = 0.8

    def at_share(self, share: float) -> Self | None:
        return lower(self, "ratio", share=share)


class Store(OnnxPass):
    """Costs a fixed share of accuracy, after the cut."""

    kind: Literal["store"] = "store"
    cost: float = 0.0


class Stages:
    """Stages whose models are (kept share, accuracy): a whole model is 10 MB and takes 10 ms."""

    def __init__(
        self, recipe: Recipe, broken: tuple[float, ...], empty: tuple[float, ...],
        progress: Progress,
    ) -> None:  # fmt: skip
        self.recipe, self.broken, self.empty = recipe, broken, empty
        self.splits, self.progress = {"search": SEARCH}, progress
        self.estimate = Estimate()
        self.task = load_task("text-classification")
        self.exports: list[str] = []
        self.timed: list[BenchmarkSettings] = []

    @property
    def judge(self) -> Judge:
        task = load_task("text-classification")
        return Judge(self.recipe.budget, task, SEARCH, ("no", "yes"))

    def run_pass(
        self, name: str, position: int, step: Any, before: tuple[float, float], told: Told
    ) -> PassResult[Any]:
        kept, accuracy = before
        if isinstance(step, Store):
            return PassResult((kept, accuracy - step.cost), size(kept), 1.0, reused=False)
        if step.ratio in self.broken:
            raise PassError("cannot do so little", kind="cut", position=position)
        if step.ratio in self.empty:
            cause = NothingToRemove("nothing goes")
            raise PassError(str(cause), kind="cut", position=position) from cause
        told.notes.append(f"cut {step.ratio:g}")
        model = (kept - step.ratio, accuracy - step.ratio / 10)
        return PassResult(model, size(model[0]), 1.0, reused=False)

    def score(self, name: str, model: tuple[float, float], *, reference: Score) -> Score:
        return score(round(model[1], 4))

    def export(self, name: str, model: tuple[float, float]) -> Exported:
        self.exports.append(name)
        graph: Any = model
        return Exported(graph, size(model[0]), ComponentBytes(0, 0, 0, 0))

    def parity(self, name: str, model: Any, graph: Any) -> None:
        pass

    def time(
        self, name: str, settings: BenchmarkSettings, baseline: Any, final: Any, *, to_choose: bool
    ) -> tuple[Latency, ...]:
        assert to_choose
        self.timed.append(settings)
        [batch_size, *_], [length, *_] = settings.batch_sizes, settings.sequence_lengths
        return tuple(
            Latency(
                model=name,
                provider="cpu",
                batch_size=batch_size,
                sequence_length=length,
                p50_ms=10 * model[0],
                p95_ms=10 * model[0],
                num_runs=3,
                threads=1,
            )
            for name, model in (("baseline", baseline), ("final", final))
        )


def size(kept: float) -> Size:
    return Size(1, 1, round(1e7 * kept))


def search(
    max_drop: float,
    *,
    cost: float = 0.0,
    broken: tuple[float, ...] = (),
    empty: tuple[float, ...] = (),
    progress: Progress = SILENT,
    **target: Any,
) -> tuple[RunLog, Any, Stages]:
    """Search the ratio of a cut; return the log, the kept model or the error, and the stages."""
    recipe = Recipe(
        model=ModelSettings(checkpoint="org/model"),
        data=DataSettings(text="text", search=SplitSource(path="rows.csv")),
        budget=AccuracyBudget(max_drop=max_drop, target=CompressionTarget(**target)),
        passes=(Cut(), Store(cost=cost)),
    )
    log = RunLog(
        recipe={}, recipe_name="", max_drop=max_drop, environment={}, source_checkpoint="",
        labels=("no", "yes"), baseline=ModelRecord(score(1.0), size(1.0)),
        task="text-classification",
    )  # fmt: skip
    stages: Any = Stages(recipe, broken, empty, progress)
    whole: Any = (1.0, 1.0)
    try:
        return log, search_fraction(stages, log, 0, whole, score(1.0), whole), stages
    except (BudgetExceeded, PassError) as error:
        return log, error, stages


def rungs(log: RunLog) -> list[tuple[float, str, bool]]:
    return [(item.settings["ratio"], item.verdict, item.kept) for item in log.passes[-1].tries]


@pytest.mark.parametrize(
    ("megabytes", "ratio"), [(9.5, 0.1), (8.0, 0.2), (5.5, 0.5), (2.0, 0.8), (4.0, 0.6)]
)
def test_a_size_goal_is_reached_by_the_mildest_rung(megabytes: float, ratio: float):
    log, model, _ = search(0.5, max_megabytes=megabytes)
    assert model[0] == pytest.approx(1 - ratio)
    [kept] = [item for item in log.passes[0].tries if item.kept]
    assert kept.settings["ratio"] == log.passes[0].settings["ratio"] == ratio
    assert len(log.passes[0].tries) <= 4
    assert log.target is not None
    assert (log.target.met, log.target.wanted) == (True, megabytes)
    assert log.target.reached == pytest.approx(10 * (1 - ratio))
    assert log.target.share == pytest.approx(ratio / 0.8)


def test_each_candidate_says_what_it_came_to_and_the_recipe_is_the_limit():
    log, _, _ = search(0.5, max_megabytes=4.0)
    assert [item.change for item in log.passes[0].tries] == [
        "ratio 0.8 -> 0.4: 6 MB, goal at most 4 MB",
        "ratio 0.8 -> 0.6: 4 MB, goal at most 4 MB",
        "ratio 0.8 -> 0.5: 5 MB, goal at most 4 MB",
    ]
    assert rungs(log) == [(0.4, "passed", False), (0.6, "passed", True), (0.5, "passed", False)]
    assert log.passes[0].notes == ("cut 0.6",)


def test_a_goal_beyond_the_limit_of_the_recipe_names_the_best():
    log, error, _ = search(0.5, max_megabytes=1.0)
    assert isinstance(error, TargetMissed)
    assert error.exit_code == 5
    assert error.best == "as the recipe says: 2 MB"
    assert "the goal, at most 1 MB, was not reached" in str(error)
    assert "raise the fraction in passes[0]" in str(error)
    assert log.target is not None
    assert (log.target.met, log.target.share) == (False, 1.0)
    assert log.target.reached == pytest.approx(2.0)


def test_a_goal_that_costs_more_than_the_budget_names_the_best_within_it():
    # 0.3 is the most that the budget allows; 5 MB would take 0.5.
    log, error, _ = search(0.03, max_megabytes=5.0)
    assert isinstance(error, TargetMissed)
    assert error.best == "ratio 0.8 -> 0.3: 7 MB"
    assert "raise budget.max_drop" in str(error)
    assert rungs(log) == [
        (0.4, "budget_exceeded", False), (0.1, "passed", False), (0.2, "passed", False),
        (0.3, "passed", False),
    ]  # fmt: skip
    assert log.passes[0].tries[0].change == (
        "ratio 0.8 -> 0.4: passes[0] (cut) lost 4 points, the budget allows 3 points"
    )
    assert log.passes[0].settings["ratio"] == 0.3
    assert log.compared_split == "search"


def test_a_candidate_that_a_gate_refused_is_not_exported():
    _, _, stages = search(0.03, max_megabytes=5.0)
    assert stages.exports == [f"export, ratio 0.8 -> 0.{tenths}" for tenths in (1, 2, 3)]


def test_a_later_pass_counts_too():
    log, model, _ = search(0.05, cost=0.02, strongest=True)
    assert model[0] == pytest.approx(0.7)
    assert log.passes[0].tries[0].verdict == "budget_exceeded"
    assert "passes[1] (store) lost 6 points" in log.passes[0].tries[0].change


def test_the_strongest_is_the_last_rung_whose_gates_all_hold():
    log, model, _ = search(0.05, strongest=True)
    assert model[0] == pytest.approx(0.5)
    assert log.target is not None
    assert (log.target.kind, log.target.wanted, log.target.met) == ("strongest", None, True)
    assert log.target.reached == pytest.approx(5.0)


def test_the_strongest_can_be_all_that_the_recipe_allows():
    log, model, _ = search(0.5, strongest=True)
    assert model[0] == pytest.approx(0.2)
    assert log.passes[0].tries[-1].change.startswith("as the recipe says: 2 MB")


def test_when_no_rung_is_within_the_budget_there_is_no_best():
    # Without the cut, the pass behind it still costs a point.
    log, error, _ = search(0.005, cost=0.01, strongest=True)
    assert isinstance(error, TargetMissed)
    assert error.best is None
    assert error.drop == pytest.approx(0.01)
    assert "no candidate is within the budget of 0.5 points; with the best one" in str(error)
    assert (log.passes[0].settings["ratio"], log.passes[0].verdict) == (0.0, "budget_exceeded")


def test_where_even_the_mildest_fraction_costs_too_much_the_pass_is_left_out():
    log, model, stages = search(0.005, strongest=True)
    assert model == (1.0, 1.0)
    assert rungs(log) == [
        (0.4, "budget_exceeded", False), (0.1, "budget_exceeded", False), (0.0, "passed", True),
    ]  # fmt: skip
    kept = log.passes[0].tries[-1]
    assert kept.change == "left out: 10 MB, goal the strongest compression within the budget"
    assert (kept.score_after, kept.drop, kept.size, kept.seconds) == (1.0, 0.0, None, 0.0)
    assert log.target is not None
    assert (log.target.met, log.target.share, log.target.reached) == (True, 0.0, 10.0)
    assert stages.exports == ["export, left out"]


def test_a_goal_that_is_reached_without_the_pass_leaves_it_out():
    log, model, _ = search(0.5, max_megabytes=10.0)
    assert model == (1.0, 1.0)
    assert [item[0] for item in rungs(log)] == [0.4, 0.1, 0.0]


def test_a_fraction_so_small_that_nothing_goes_leaves_the_pass_out():
    log, model, _ = search(0.5, max_megabytes=9.5, empty=(0.1,))
    # 9 MB would have done, but a tenth removes nothing here, so it takes two.
    assert model[0] == pytest.approx(0.8)
    assert [(item[0], item[2]) for item in rungs(log)] == [(0.4, False), (0.1, False), (0.2, True)]


def test_a_speedup_is_the_ratio_of_medians_at_the_shape_of_the_goal():
    log, model, stages = search(0.5, speedup=2.0, batch_size=4, sequence_length=16)
    assert model[0] == pytest.approx(0.5)
    assert {(item.batch_sizes, item.sequence_lengths) for item in stages.timed} == {((4,), (16,))}
    assert log.target is not None
    assert log.target.reached == pytest.approx(2.0)
    assert log.target.goal == (
        "at least 2 times as fast as the baseline at batch 4, 16 tokens on cpu"
    )


def test_a_shape_left_out_is_one_example_of_the_first_length_that_is_timed():
    goal = Goal.of(CompressionTarget(speedup=2.0), BenchmarkSettings(sequence_lengths=(64, 128)))
    assert (goal.timing.batch_sizes, goal.timing.sequence_lengths) == ((1,), (64,))


def test_a_candidate_that_raises_stops_the_run_and_the_others_are_kept():
    log, error, _ = search(0.5, max_megabytes=9.5, broken=(0.1,))
    assert isinstance(error, PassError)
    assert rungs(log) == [(0.4, "passed", False), (0.1, "failed", False)]
    assert log.target is not None
    assert not log.target.met


RECIPE = {
    "model": {"checkpoint": "org/model"},
    "data": {"text": "text", "label": "label", "search": {"path": "rows.csv"}},
    "budget": {"max_drop": 0.01, "target": {"max_megabytes": 10.0}},
    "passes": [{"kind": "prune_structured", "ratio": 0.8}],
}


def mistakes(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**RECIPE, **changes}))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({}, "budget.target: has 0 goals; give one of max_megabytes, speedup and strongest"),
        ({"strongest": False}, "budget.target: has 0 goals"),
        ({"max_megabytes": 1, "strongest": True}, "budget.target: has 2 goals"),
        ({"max_megabytes": 0}, "budget.target.max_megabytes: must be greater than 0"),
        ({"speedup": 1}, "budget.target.speedup: must be greater than 1"),
        (
            {"max_megabytes": 5, "batch_size": 1},
            "budget.target.batch_size: is only for speedup, not max_megabytes",
        ),
        ({"smaller": 2}, "budget.target.smaller: unknown key"),
    ],
)
def test_a_goal_is_one_of_three(tmp_path: Path, target: Any, message: str):
    assert message in mistakes(tmp_path, budget={"max_drop": 0.01, "target": target})


def test_the_recipe_must_have_one_fraction_to_search(tmp_path: Path):
    none = mistakes(tmp_path, passes=[{"kind": "prune_structured", "drop_layers": [1]}])
    assert "budget.target: searches the fraction of one pass" in none
    assert "here none has one" in none
    both = [RECIPE["passes"][0], {"kind": "prune_magnitude", "sparsity": 0.5}]  # type: ignore[index]
    assert "here 2 have one: passes[0] (prune_structured), passes[1] (prune_magnitude)" in mistakes(
        tmp_path, passes=both
    )


def test_a_search_and_a_repair_are_not_both_done(tmp_path: Path):
    assert "remove on_failure: repair, or remove target" in mistakes(tmp_path, on_failure="repair")


def test_a_speedup_needs_a_provider_to_be_measured_on(tmp_path: Path):
    message = mistakes(
        tmp_path,
        budget={"max_drop": 0.01, "target": {"speedup": 2.0}},
        benchmark={"providers": []},
    )
    assert "benchmark.providers: is empty, but budget.target.speedup" in message


def test_all_fractions_of_a_pass_move_together():
    half = PruneByScores(head_ratio=0.4, neuron_ratio=0.8).at_share(0.5)
    assert half is not None
    assert (half.head_ratio, half.neuron_ratio, half.ratio) == (0.2, 0.4, None)


Run = Callable[[dict[str, Any]], RunReport]


@pytest.fixture
def run(bert_recipe: dict[str, Any], tmp_path: Path) -> Run:
    """Return what runs a recipe over the tiny BERT with a goal, always in the same directory."""
    pruned = {"kind": "prune_structured", "ratio": 0.8, "importance": "magnitude"}
    passes = [
        {**pruned, "may_empty_layers": True},
        {"kind": "quantize_dynamic", "min_elements": 64},
    ]

    def go(target: dict[str, Any]) -> RunReport:
        budget = {"max_drop": 0.9, "target": target}
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps({**bert_recipe, "passes": passes, "budget": budget}))
        return compressor.run(load_recipe(path), output=tmp_path / "run", device="cpu")

    return go


def test_a_run_ships_the_candidate_and_another_goal_reuses_its_steps(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    # Two candidates, the half and the whole fraction; the ladder itself is tested above.
    monkeypatch.setattr(target_search, "RUNGS", 2)
    report = run({"strongest": True})
    assert report.verdict == "passed"
    assert report.final is not None
    assert report.target is not None
    assert (report.target.met, report.target.share) == (True, 1.0)
    assert report.target.reached == report.final.size.bytes_on_disk / 1e6
    assert [step.kind for step in report.passes] == ["prune_structured", "quantize_dynamic"]
    assert len(report.passes[0].tries) == 2
    [kept] = [item for item in report.passes[0].tries if item.kept]
    assert kept.settings == report.passes[0].settings

    monkeypatch.setattr("compressor.passes.prune_structured.apply.apply", must_not_run)
    again = run({"strongest": True})
    assert [step.name for step in again.steps if not step.reused] == []
    assert (again.target, again.passes[0].tries) == (report.target, report.passes[0].tries)

    # No candidate is a million times as fast, so every one is timed, and only that is new.
    with pytest.raises(TargetMissed) as caught:
        run({"speedup": 1e6})
    missed = caught.value.report
    assert (missed.verdict, missed.guilty_step) == (
        "budget_exceeded", "passes[0] (prune_structured)",
    )  # fmt: skip
    assert {name.split(",")[0] for name in redone(missed)} == {"benchmark"}
    with pytest.raises(TargetMissed) as caught:
        run({"speedup": 1e6})
    assert redone(caught.value.report) == []
    assert caught.value.report.target == missed.target


def redone(report: RunReport) -> list[str]:
    return [step.name for step in report.steps if not step.reused]


def must_not_run(*arguments: object) -> None:
    raise AssertionError("a finished step was done again")


class Lines(Silent):
    """Keeps what is announced and found."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.results: list[str] = []

    def stage(self, title: str) -> None:
        self.stages.append(title)

    def result(self, text: str) -> None:
        self.results.append(text)


def test_a_search_counts_its_candidates_and_says_how_many_remain_at_most():
    lines = Lines()
    search(0.5, progress=lines, max_megabytes=8.0)
    assert lines.stages == [
        "passes[0] (cut), try 1 of at most 4: ratio 0.8 -> 0.4",
        "passes[0] (cut), try 2 of at most 4: ratio 0.8 -> 0.1",
        "passes[0] (cut), try 3 of at most 4: ratio 0.8 -> 0.2",
    ]


def test_each_gate_of_a_candidate_says_what_is_left_of_the_budget():
    lines = Lines()
    search(0.5, progress=lines, max_megabytes=8.0)
    assert lines.results[:4] == [
        "passes[0] (cut): accuracy 96.00% on 1,000 rows, 6.00 MB: fell by 4 points, 50 points "
        "allowed, 46 points left",
        "passes[1] (store): accuracy 96.00% on 1,000 rows, 6.00 MB: fell by 4 points, 50 points "
        "allowed, 46 points left",
        "export: accuracy 96.00% on 1,000 rows, 6.00 MB: fell by 4 points, 50 points allowed, 46 "
        "points left",
        "ratio 0.8 -> 0.4: 6 MB, goal at most 8 MB",
    ]
