"""A sweep over the tiny BERT's recipe, and a stand-in for the runs of its trials."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor.measurements import Latency, ModelRecord, RunReport, Score, Size
from compressor.pipeline.run import Trial
from compressor.pipeline.run_record import RunLog
from compressor.recipe.recipe import Recipe
from compressor.report.render import write_report
from compressor.sweep.settings import Sweep, load_sweep

MakeSweep = Callable[..., Sweep]


def stand_in_report(recipe: Recipe, *, timed: bool) -> RunReport:
    """Return the report of a run that lost a point for each tenth of its sparsity."""
    sparsity = recipe.passes[0].settings["sparsity"]
    log = RunLog(recipe.to_dict(), "recipe.yaml", 0.9, {}, "checkpoint", metric="accuracy")
    log.baseline = ModelRecord(Score("accuracy", 0.9, 100), Size(100, 100, 10_000_000))
    score = Score("accuracy", 0.9 - sparsity / 10, 100)
    log.final = ModelRecord(score, Size(100, 100, round(1e7 * (1 - sparsity))))
    if timed:
        log.latencies = tuple(
            Latency(
                model=name,
                provider="cpu",
                batch_size=1,
                sequence_length=8,  # type: ignore[arg-type]
                p50_ms=ms,
                p95_ms=ms,
                num_runs=3,
                threads=1,
                cpu_p50_ms=ms / 2,
            )
            for name, ms in (("baseline", 8.0), ("final", 8.0 * (1 - sparsity)))
        )
    return log.report("passed", "every gate held", None)


class StandIn:
    """Takes the place of the runs of trials and of the chosen recipe, and says what was asked."""

    def __init__(self) -> None:
        self.trials: list[Path] = []
        self.chosen: list[Recipe] = []
        self.raises: dict[float, BaseException] = {}  # by the sparsity of a trial

    def run_trial(
        self, recipe: Recipe, trial: Trial, *, output: Path, store: Path, **others: Any
    ) -> RunReport:
        self.trials.append(output)
        if (error := self.raises.get(recipe.passes[0].settings["sparsity"])) is not None:
            raise error
        report = stand_in_report(recipe, timed=trial.timing is not None)
        write_report(report, output)
        return report

    def run(self, recipe: Recipe, *, output: Path, store: Path, **others: Any) -> RunReport:
        self.chosen.append(recipe)
        report = stand_in_report(recipe, timed=True)
        write_report(report, output)
        return report


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    runs = StandIn()
    monkeypatch.setattr("compressor.sweep.worker.run_trial", runs.run_trial)
    monkeypatch.setattr("compressor.sweep.worker.run", runs.run)
    return runs


@pytest.fixture
def make_sweep(tmp_path: Path, bert_recipe: dict[str, Any]) -> MakeSweep:
    """Return a function that reads a sweep; it changes keys of a grid over three sparsities."""

    def make(**changes: Any) -> Sweep:
        passes = [{"kind": "prune_magnitude", "sparsity": 0.5}]
        (tmp_path / "recipe.yaml").write_text(json.dumps({**bert_recipe, "passes": passes}))
        grid = {
            "recipe": "recipe.yaml",
            "space": {"passes.0.sparsity": {"low": 0.1, "high": 0.3, "step": 0.1}},
            "objectives": {"bytes": "minimize", "score": "maximize"},
            "constraints": {"drop": "2.5 points"},
            "sampler": "grid",
            "output": "out",
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(json.dumps({**grid, **changes}))
        return load_sweep(path)

    return make
