"""A sweep from its file to the chosen recipe, with a stand-in for the runs."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import (
    BudgetExceeded,
    EnvironmentMismatch,
    NoFeasibleTrial,
    PassError,
    RecipeError,
)
from compressor.measurements import RunReport
from compressor.recipe.recipe import Recipe, load_recipe
from compressor.sweep.settings import load_sweep
from compressor.sweep.worker import WorkerOptions, run_sweep

OVER = BudgetExceeded("passes[0]", metric="accuracy", drop=0.95, max_drop=0.9)


class Told:
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, title: str) -> None:
        self.lines.append(title)

    def result(self, text: str) -> None:
        self.lines.append(text)


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "front.json").read_text())
    return found


def test_the_best_of_the_feasible_trials_is_run_to_the_end(make_sweep, stand_in, tmp_path: Path):
    end = run_sweep(make_sweep())
    assert [path.name for path in stand_in.trials] == ["0001", "0002", "0003"]
    [chosen] = stand_in.chosen
    assert chosen.passes[0].settings["sparsity"] == 0.2
    assert chosen.path == tmp_path / "out" / "best.yaml"
    assert end.front.headline == "3 of 3 trials, 2 on the front, trial 2 chosen"


def test_the_front_is_written_as_data_and_as_a_table(make_sweep, stand_in, tmp_path: Path):
    run_sweep(make_sweep())
    found = facts(tmp_path / "out")
    assert (found["front"], found["best"]) == ([1, 2], 2)
    assert [item["feasible"] for item in found["trials"]] == [True, True, False]
    with (tmp_path / "out" / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["passes.0.sparsity"] for row in rows] == ["0.1", "0.2", "0.3"]
    assert [row["chosen"] for row in rows] == ["false", "true", "false"]
    assert [float(row["drop"]) for row in rows] == pytest.approx([0.01, 0.02, 0.03])
    assert [row["bytes"] for row in rows] == ["9000000", "8000000", "7000000"]


def test_the_recipe_that_is_written_is_the_trials(make_sweep, stand_in, tmp_path: Path):
    sweep = make_sweep()
    run_sweep(sweep)
    written = load_recipe(tmp_path / "out" / "best.yaml").to_dict()
    trial = sweep.recipe_at({"passes.0.sparsity": 0.2}).to_dict()
    assert written.pop("output") == str(tmp_path / "out" / "best")
    del trial["output"]
    assert written == trial


def test_latency_is_measured_where_the_sweep_goes_by_it(make_sweep, stand_in, tmp_path: Path):
    run_sweep(make_sweep(constraints={"speedup": 1.2}))
    trials = facts(tmp_path / "out")["trials"]
    assert [item["figures"]["latency_ms"] for item in trials] == pytest.approx([3.6, 3.2, 2.8])
    assert [item["feasible"] for item in trials] == [False, True, True]


def test_a_finished_sweep_does_nothing_again(make_sweep, stand_in):
    first = run_sweep(make_sweep())
    again = run_sweep(make_sweep())
    assert len(stand_in.trials) == 3
    assert len(stand_in.chosen) == 1
    assert again.front == first.front


@pytest.mark.parametrize("key", ["data.search.path", "model.checkpoint"])
def test_trials_on_other_rows_or_of_another_checkpoint_are_not_mixed(
    make_sweep, stand_in, bert_recipe: dict[str, Any], tmp_path: Path, key: str
):
    rows, model = tmp_path / "rows.csv", tmp_path / "model"
    shutil.copyfile(bert_recipe["data"]["search"]["path"], rows)
    shutil.copytree(bert_recipe["model"]["checkpoint"], model)
    data = {**bert_recipe["data"], "search": {"path": str(rows)}}
    recipe = {**bert_recipe, "data": data, "model": {"checkpoint": str(model)}}
    make_sweep()
    passes = [{"kind": "prune_magnitude", "sparsity": 0.5}]
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, "passes": passes}))
    sweep = load_sweep(tmp_path / "sweep.yaml")
    run_sweep(sweep)
    changed = rows if key == "data.search.path" else model / "config.json"
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(RecipeError, match=f"whose content of {key} differs; give another --output"):
        run_sweep(sweep)
    assert len(stand_in.chosen) == 1


def test_another_choice_of_a_finished_sweep_runs_that_recipe_alone(make_sweep, stand_in):
    run_sweep(make_sweep())
    run_sweep(make_sweep(choose="score"))
    assert len(stand_in.trials) == 3
    assert [item.passes[0].settings["sparsity"] for item in stand_in.chosen] == [0.2, 0.1]


def test_trials_that_fail_say_why_and_the_others_go_on(make_sweep, stand_in, tmp_path: Path):
    stand_in.raises = {0.1: OVER, 0.3: PassError("nothing is left", kind="prune_magnitude")}
    run_sweep(make_sweep())
    first, _, third = facts(tmp_path / "out")["trials"]
    assert (first["state"], third["state"]) == ("over_budget", "failed")
    assert first["over"] == pytest.approx(0.05)
    assert "fell by 95 points" in first["reason"]
    assert third["reason"] == "prune_magnitude: nothing is left"


def test_a_refused_recipe_is_told_before_anything_runs_and_the_others_run(
    make_sweep, stand_in, tmp_path: Path
):
    told = Told()
    space = {"passes.0.sparsity": {"choices": [0.2, 1.5]}}
    run_sweep(make_sweep(space=space), WorkerOptions(progress=told))  # type: ignore[arg-type]
    assert told.lines[0].startswith(
        "1 of 2 combinations are refused, such as passes.0.sparsity=1.5: "
    )
    refused = facts(tmp_path / "out")["trials"][1]
    assert refused["state"] == "refused"
    assert (
        "space.passes.0.sparsity: passes.0.sparsity=1.5: must be less than 1" in refused["reason"]
    )
    assert len(stand_in.trials) == 1


def test_where_every_recipe_is_refused_nothing_runs(make_sweep, stand_in, tmp_path: Path):
    with pytest.raises(RecipeError, match="unknown key 'sparsty', did you mean 'sparsity'"):
        run_sweep(make_sweep(space={"passes.0.sparsty": {"choices": [0.2, 0.4]}}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_space_without_an_end_is_looked_at_in_its_corners(make_sweep, stand_in, sampler: str):
    space = {"passes.0.sparsity": {"low": 0.1, "high": 1.2}}
    told = Told()
    sweep = make_sweep(space=space, sampler=sampler, trials=4, constraints={})
    run_sweep(sweep, WorkerOptions(progress=told))  # type: ignore[arg-type]
    assert told.lines[0].startswith("1 of 2 corners of the space are refused, such as")


def test_without_a_feasible_trial_the_closest_is_told(make_sweep, stand_in, tmp_path: Path):
    with pytest.raises(NoFeasibleTrial) as caught:
        run_sweep(make_sweep(constraints={"drop": 0.0}))
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith(
        "3 of 3 trials, none keeps all constraints; trial 1 came closest (passes.0.sparsity=0.1): "
        "the score fell by 1 point, 0 points allowed"
    )
    assert facts(tmp_path / "out")["best"] is None
    assert not (tmp_path / "out" / "best.yaml").exists()
    assert stand_in.chosen == []


def test_a_stopped_sweep_shows_what_it_has_and_goes_on(make_sweep, stand_in, tmp_path: Path):
    stand_in.raises = {0.2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt) as caught:
        run_sweep(make_sweep())
    assert caught.value.__notes__ == ["Stopped in trial 2; the same command resumes the sweep"]
    assert [item["number"] for item in facts(tmp_path / "out")["trials"]] == [1]
    stand_in.raises = {}
    run_sweep(make_sweep())
    assert [path.name for path in stand_in.trials] == ["0001", "0002", "0002", "0003"]
    assert len(stand_in.chosen) == 1


def test_what_a_machine_lacks_stops_the_worker_and_not_the_trial(
    make_sweep, stand_in, tmp_path: Path
):
    stand_in.raises = {0.2: EnvironmentMismatch("the disk is full")}
    with pytest.raises(EnvironmentMismatch, match="the disk is full"):
        run_sweep(make_sweep())
    stand_in.raises = {}
    end = run_sweep(make_sweep())
    assert [item.outcome.state for item in end.front.trials] == ["done"] * 3


def test_a_bug_ends_the_worker_and_is_met_once(make_sweep, stand_in):
    stand_in.raises = {0.2: ZeroDivisionError("division by zero")}
    with pytest.raises(ZeroDivisionError):
        run_sweep(make_sweep())
    end = run_sweep(make_sweep())
    second = end.front.trials[1].outcome
    assert second.state == "failed"
    assert second.reason.endswith("not a mistake of yours: ZeroDivisionError: division by zero")


def test_code_of_the_users_own_runs_where_it_is_allowed_alone(
    make_sweep, stand_in, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "own.py").write_text("def score(inputs):\n    return 1.0\n")
    path, own = make_sweep().path, ["budget.metric=own.py:score"]
    with pytest.raises(RecipeError, match="--allow-code"):
        run_sweep(load_sweep(path, own))
    assert stand_in.trials == []
    allowed: list[bool] = []
    plain = stand_in.run_trial

    def run_trial(recipe: Recipe, *arguments: Any, **others: Any) -> RunReport:
        allowed.append(recipe.own_metric is not None)
        return plain(recipe, *arguments, **others)

    monkeypatch.setattr("compressor.sweep.worker.run_trial", run_trial)
    run_sweep(load_sweep(path, own, allow_code=True))
    assert allowed == [True] * 3
    assert load_recipe(tmp_path / "out" / "best.yaml").budget.metric == f"{tmp_path}/own.py:score"


def test_times_need_a_provider(make_sweep, stand_in):
    sweep = make_sweep(constraints={"speedup": 2})
    sweep = load_sweep(sweep.path, ["benchmark.providers=[]"])
    with pytest.raises(RecipeError, match="is empty, and the sweep goes by times"):
        run_sweep(sweep)


def test_scores_of_different_metrics_are_not_compared(
    make_sweep, stand_in, monkeypatch: pytest.MonkeyPatch
):
    plain = stand_in.run_trial

    def run_trial(recipe: Recipe, *arguments: Any, **others: Any) -> RunReport:
        report = plain(recipe, *arguments, **others)
        if recipe.passes[0].settings["sparsity"] < 0.2:
            return report
        assert report.final is not None
        score = dataclasses.replace(report.final.score, metric="f1_macro")
        return dataclasses.replace(report, final=dataclasses.replace(report.final, score=score))

    monkeypatch.setattr("compressor.sweep.worker.run_trial", run_trial)
    with pytest.raises(RecipeError, match=r"budget\.metric: trials are scored by accuracy and f1_"):
        run_sweep(make_sweep())
    assert stand_in.chosen == []


def test_each_task_of_srun_is_a_worker(
    make_sweep, stand_in, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    tasks = {"SLURM_STEP_NUM_TASKS": "4", "PMI_RANK": "3"}
    seen: list[set[str]] = []
    plain = stand_in.run_trial

    def run_trial(*arguments: Any, **others: Any) -> RunReport:
        seen.append(tasks.keys() & os.environ.keys())
        return plain(*arguments, **others)

    monkeypatch.setattr("compressor.sweep.worker.run_trial", run_trial)
    for name, value in tasks.items():
        monkeypatch.setenv(name, value)
    run_sweep(make_sweep())
    assert seen == [set()] * 3
    assert {name: os.environ[name] for name in tasks} == tasks


def test_the_ranks_of_a_training_are_no_workers(
    make_sweep, stand_in, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EnvironmentMismatch, match="torchrun"):
        run_sweep(make_sweep())
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_refused(make_sweep, stand_in, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"holds notes\.txt, and no sweep of compressor"):
        run_sweep(make_sweep())


def test_the_folder_of_another_sweep_is_refused(make_sweep, stand_in):
    run_sweep(make_sweep())
    with pytest.raises(RecipeError, match="holds the trials of another sweep, whose constraints"):
        run_sweep(make_sweep(constraints={"drop": 0.01}))


def test_a_sweep_needs_a_directory(make_sweep, stand_in):
    with pytest.raises(RecipeError, match="output: no directory was given"):
        run_sweep(make_sweep(output=None))


def test_the_page_escapes_what_it_shows(make_sweep, stand_in, tmp_path: Path):
    stand_in.raises = {0.1: PassError("<script>alert(1)</script>", kind="prune_magnitude")}
    run_sweep(make_sweep())
    page = (tmp_path / "out" / "front.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<svg viewBox") == 1
    assert "trial 2 chosen" in page
