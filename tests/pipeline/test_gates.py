"""A gate that fails stops the run, or looks for the strongest milder settings that pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

import pytest
from made_up_scores import SEARCH, score

from compressor.data import DataSettings, SplitSource
from compressor.errors import BudgetExceeded, PassError
from compressor.measurements import ModelRecord, PassRecord, Score, Size
from compressor.passes import NothingToRemove, TorchPass
from compressor.passes.repair import halfway, ladder
from compressor.pipeline.cached_steps import PassResult, Told
from compressor.pipeline.estimate import Estimate
from compressor.pipeline.gates import describe_change, pass_gate
from compressor.pipeline.judge import Judge
from compressor.pipeline.run_record import RunLog
from compressor.progress import SILENT, Progress, Silent
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.recipe import ModelSettings, Recipe, RepairSettings
from compressor.tasks import load_task


class Spoil(TorchPass):
    """A pass that costs as much accuracy as its ratio says."""

    kind: Literal["spoil"] = "spoil"
    ratio: float = 0.8

    def milder(self) -> Iterator[Self]:
        yield from ladder(self, "ratio")

    def halfway(self, milder: Self) -> Self | None:
        return halfway(self, milder, "ratio")


class Stages:
    """Stages whose models are their own scores.

    The pass fails for the ratios `broken`, and with `empty` ones nothing would be removed.
    """

    def __init__(
        self, recipe: Recipe, seconds: float, broken: tuple[float, ...], empty: tuple[float, ...],
        progress: Progress,
    ) -> None:  # fmt: skip
        self.recipe, self.seconds, self.broken, self.empty = recipe, seconds, broken, empty
        self.splits, self.progress = {"search": SEARCH}, progress
        self.estimate = Estimate()
        self.task = load_task("text-classification")

    @property
    def judge(self) -> Judge:
        return Judge(self.recipe.budget, self.task, SEARCH, ("no", "yes"))

    def run_pass(
        self, name: str, position: int, step: Spoil, before: float, told: Told
    ) -> PassResult[Any]:
        if step.ratio in self.broken:
            raise PassError("cannot do so little", kind="spoil", position=position)
        if step.ratio in self.empty:
            cause = NothingToRemove("nothing goes")
            raise PassError(str(cause), kind="spoil", position=position) from cause
        told.notes.append(f"spoilt {step.ratio:g}")
        return PassResult(before - step.ratio, Size(1, 1, 1), self.seconds, reused=False)

    def score(self, name: str, model: float, *, reference: Score) -> Score:
        return score(round(model, 4))


def gate(
    max_drop: float,
    step: Spoil | None = None,
    *,
    before: float = 1.0,
    repair: RepairSettings | None = None,
    on_failure: Literal["stop", "repair"] = "repair",
    seconds: float = 1.0,
    broken: tuple[float, ...] = (),
    empty: tuple[float, ...] = (),
    earlier: tuple[PassRecord, ...] = (),
    progress: Progress = SILENT,
) -> tuple[RunLog, Any]:
    """Send a pass through a gate; return the log and the kept model, or the error."""
    step = step or Spoil()
    recipe = Recipe(
        model=ModelSettings(checkpoint="org/model"),
        data=DataSettings(text="text", search=SplitSource(path="rows.csv")),
        budget=AccuracyBudget(max_drop=max_drop),
        passes=(step,),
        on_failure=on_failure,
        repair=repair,
    )
    log = RunLog(
        recipe={}, recipe_name="", max_drop=max_drop, environment={}, source_checkpoint="",
        task="text-classification", labels=("no", "yes"),
        baseline=ModelRecord(score(1.0), Size(1, 1, 1)), passes=list(earlier),
    )  # fmt: skip
    stages: Any = Stages(recipe, seconds, broken, empty, progress)
    try:
        return log, pass_gate(stages, log, len(earlier), step, before, score(1.0))
    except (BudgetExceeded, PassError) as error:
        return log, error


def ratios(log: RunLog) -> list[tuple[float, str, bool]]:
    return [(item.settings["ratio"], item.verdict, item.kept) for item in log.passes[-1].tries]


def test_a_pass_that_passes_at_once_is_tried_once():
    log, model = gate(0.9)
    assert model == pytest.approx(0.2)
    assert ratios(log) == [(0.8, "passed", True)]
    assert log.passes[0].tries[0].change == "as the recipe says"


def test_without_repair_a_failed_gate_stops_the_run():
    log, error = gate(0.5, on_failure="stop")
    assert isinstance(error, BudgetExceeded)
    assert (error.drop, error.max_drop, error.tried) == (pytest.approx(0.8), 0.5, ())
    assert ratios(log) == [(0.8, "budget_exceeded", False)]


def test_a_repair_ends_at_the_strongest_setting_that_passes():
    log, model = gate(0.55)
    assert ratios(log) == [
        (0.8, "budget_exceeded", False),
        (0.6, "budget_exceeded", False),
        (0.4, "passed", False),
        (0.5, "passed", False),
        (0.55, "passed", True),
        (0.575, "budget_exceeded", False),
        (0.5625, "budget_exceeded", False),
    ]
    assert model == pytest.approx(0.45)


def test_the_record_speaks_of_the_kept_try_and_the_recipe_of_what_was_asked():
    log, _ = gate(0.55)
    record = log.passes[0]
    assert (record.settings["ratio"], record.verdict) == (0.55, "passed")
    assert (record.score_after, record.drop) == (0.45, pytest.approx(0.55))
    assert record.notes == ("spoilt 0.55",)
    assert record.tries[2].change == "ratio 0.8 -> 0.4"


def test_the_search_ends_when_fractions_hardly_differ():
    log, _ = gate(0.79, repair=RepairSettings(max_tries=50))
    assert [item[0] for item in ratios(log)] == [0.8, 0.6, 0.7, 0.75, 0.775, 0.7875]


def test_no_more_settings_are_tried_than_the_recipe_allows():
    log, error = gate(0.1, repair=RepairSettings(max_tries=2))
    assert isinstance(error, BudgetExceeded)
    assert [item[0] for item in ratios(log)] == [0.8, 0.6, 0.4]


def test_no_more_time_is_spent_than_the_recipe_allows():
    # Each try takes a minute: after the second the limit is reached.
    log, error = gate(0.1, repair=RepairSettings(max_minutes=2), seconds=60.0)
    assert isinstance(error, BudgetExceeded)
    assert [item[0] for item in ratios(log)] == [0.8, 0.6]


def test_when_nothing_passes_the_error_says_what_was_tried_and_the_best_drop():
    log, error = gate(0.1)
    assert isinstance(error, BudgetExceeded)
    assert error.exit_code == 5
    assert error.drop == pytest.approx(0.2)
    assert error.tried == (
        "as the recipe says", "ratio 0.8 -> 0.6", "ratio 0.8 -> 0.4", "ratio 0.8 -> 0.2",
    )  # fmt: skip
    assert "in the best of 4 tries" in str(error)
    assert (log.passes[0].settings["ratio"], log.passes[0].verdict) == (0.2, "budget_exceeded")


def test_an_error_in_a_milder_setting_stops_the_run_and_the_tries_are_kept():
    log, error = gate(0.5, broken=(0.6,))
    assert isinstance(error, PassError)
    assert ratios(log) == [(0.8, "budget_exceeded", False), (0.6, "failed", False)]
    assert log.passes[0].verdict == "failed"


def test_a_milder_setting_that_removes_nothing_is_passed_over():
    log, error = gate(0.1, empty=(0.4, 0.2))
    assert isinstance(error, BudgetExceeded)
    assert ratios(log) == [(0.8, "budget_exceeded", False), (0.6, "budget_exceeded", False)]


def test_a_recipe_that_removes_nothing_is_an_error():
    log, error = gate(0.9, empty=(0.8,))
    assert isinstance(error, PassError)
    assert ratios(log) == [(0.8, "failed", False)]


def test_a_pass_may_repair_where_the_recipe_stops_and_the_reverse():
    log, _ = gate(0.7, Spoil(on_failure="repair"), on_failure="stop")
    assert log.passes[0].verdict == "passed"
    _, error = gate(0.7, Spoil(on_failure="stop"), on_failure="repair")
    assert isinstance(error, BudgetExceeded)


def test_losses_add_up_and_the_error_names_the_pass_that_cost_most():
    first = PassRecord("finetune", {}, 1.0, 0.99, 0.01, None, "passed", 1.0)
    second = PassRecord("prune_structured", {}, 0.99, 0.94, 0.06, None, "passed", 1.0)
    _, error = gate(0.07, Spoil(ratio=0.4), before=0.94, earlier=(first, second))
    assert isinstance(error, BudgetExceeded)
    assert error.step == "passes[2] (spoil)"
    assert error.earlier == ("passes[1] (prune_structured)", pytest.approx(0.05))
    assert "of that, passes[1] (prune_structured) before it cost 5 points" in str(error)


def test_a_change_of_nested_settings_is_named_as_a_recipe_spells_it():
    before = {"ratio": 0.5, "recovery": {"epochs": 1.0, "kind": "distill"}, "layers": None}
    after = {"ratio": 0.5, "recovery": {"epochs": 2.0, "kind": "distill"}, "layers": [1]}
    assert describe_change(before, after) == "recovery.epochs 1 -> 2, layers None -> [1]"


class Lines(Silent):
    """Keeps what is announced, each kind with its mark."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stage(self, title: str) -> None:
        self.told.append(f"# {title}")

    def result(self, text: str) -> None:
        self.told.append(text)

    def upcoming(self, text: str) -> None:
        self.told.append(f"> {text}")


def test_a_gate_that_holds_says_score_points_what_is_left_and_what_comes_next():
    lines = Lines()
    gate(0.9, Spoil(ratio=0.25), on_failure="stop", progress=lines)
    assert lines.told == [
        "# passes[0] (spoil)",
        "accuracy 75.00% on 1,000 rows, 0.00000100 MB: fell by 25 points, 90 points allowed, 65 "
        "points left",
        "> export",
    ]


def test_a_gate_that_fails_says_how_many_points_are_too_many():
    lines = Lines()
    gate(0.5, on_failure="stop", progress=lines)
    [told] = lines.told[1:]
    assert told.endswith("fell by 80 points, 50 points allowed, 30 points too many")


def test_a_repair_counts_its_tries_and_says_what_the_next_one_changes():
    lines = Lines()
    gate(0.65, repair=RepairSettings(max_tries=2), progress=lines)
    announced = [line for line in lines.told if line[0] in "#>"]
    assert announced == [
        "# passes[0] (spoil), try 1 of at most 3: as the recipe says",
        "> try 2 of at most 3, ratio 0.8 -> 0.6",
        "# passes[0] (spoil), try 2 of at most 3: ratio 0.8 -> 0.6",
        "> try 3 of at most 3, ratio 0.8 -> 0.7",
        "# passes[0] (spoil), try 3 of at most 3: ratio 0.8 -> 0.7",
        "> export",
    ]


def test_a_repair_says_how_many_minutes_remain_for_tries():
    lines = Lines()
    gate(0.5, repair=RepairSettings(max_minutes=20), seconds=240.0, progress=lines)
    [second, third] = [line for line in lines.told if line.startswith("> try")][:2]
    assert second.endswith("ratio 0.8 -> 0.6, about 16 min of 20 min left for further tries")
    assert third.endswith("ratio 0.8 -> 0.4, about 12 min of 20 min left for further tries")
