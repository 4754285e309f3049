"""Runs that share a store, and those that are only compared: they hold no certification rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import compressor
from compressor.errors import CompressorError, RecipeError
from compressor.measurements import RunReport
from compressor.pipeline.run import Trial, run_trial

PASSES = [{"kind": "quantize_dynamic", "min_elements": 64}]
OTHERS = [{**PASSES[0], "embeddings": False}]


@pytest.fixture(scope="module")
def base(bert_recipe: dict[str, Any]) -> dict[str, Any]:
    rows = dict(bert_recipe["data"])
    data = {**rows, "certification": rows.pop("search")}  # from which the search split is cut
    del data["search"]
    return {**bert_recipe, "data": data, "passes": PASSES}


@pytest.fixture(scope="module")
def compared(base: dict[str, Any], tmp_path_factory: Any) -> tuple[RunReport, Path]:
    """Return the report of a trial, and the folder with its output `trial` and its `store`."""
    folder = tmp_path_factory.mktemp("compared")
    recipe = compressor.load_recipe(base)
    trial = Trial(recipe.benchmark.of_first_shape())
    output, store = folder / "trial", folder / "store"
    return run_trial(recipe, trial, output=output, store=store, device="cpu"), folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def redone(report: RunReport) -> list[str]:
    return [step.name for step in report.steps if not step.reused]


def test_a_trial_reads_no_certification_rows(compared: tuple[RunReport, Path]):
    report, folder = compared
    assert report.certification is None
    assert report.missing["certification"] == "a trial of a sweep holds no certification rows"
    assert [split.name for split in report.splits] == ["search"]
    assert list(json.loads((folder / "trial" / "splits.json").read_text())) == ["search"]
    assert not (folder / "trial" / "readings.json").exists()


def test_a_trial_is_judged_and_timed(compared: tuple[RunReport, Path]):
    report, _ = compared
    assert report.verdict == "passed"
    assert report.final is not None
    assert report.final.score.metric == "accuracy"
    assert [item.model for item in report.latencies] == ["baseline", "final"]


def test_the_report_of_a_trial_leads_to_the_sweep(compared: tuple[RunReport, Path]):
    report, folder = compared
    assert report.reason == "every gate held; a trial of a sweep, whose artifact is not completed"
    page = (folder / "trial" / "report.md").read_text()
    assert "Look at front.html of the sweep" in page
    assert "Use the model in artifact/" not in page


def test_nothing_loads_the_artifact_of_a_trial(compared: tuple[RunReport, Path]):
    with pytest.raises(CompressorError):
        compressor.load_artifact(compared[1] / "trial" / "artifact")


def test_the_run_of_a_trials_recipe_takes_its_steps_and_makes_its_artifact(
    compared: tuple[RunReport, Path], base: dict[str, Any], tmp_path: Path
):
    _, folder = compared
    report = compressor.run(
        base,
        output=tmp_path / "run",
        store=folder / "store",
        device="cpu",
        allow_inconclusive=True,
    )
    assert redone(report) == [
        "baseline: reading",  # it looks at the certification rows too
        "certification: score of the baseline",
        "certification: score of the artifact",
        "benchmark on cpu",  # for the report, with as many runs as the recipe says
    ]
    made = contents(folder / "trial" / "artifact")
    assert {name: contents(tmp_path / "run" / "artifact")[name] for name in made} == made
    assert (tmp_path / "run" / "readings.json").is_file()
    assert list((tmp_path / "run" / "steps").iterdir()) == []


def test_another_trial_does_only_what_is_its_own(
    compared: tuple[RunReport, Path], base: dict[str, Any], tmp_path: Path
):
    recipe = compressor.load_recipe({**base, "passes": OTHERS})
    report = run_trial(
        recipe, Trial(None), output=tmp_path / "trial", store=compared[1] / "store", device="cpu"
    )
    assert redone(report) == [
        "passes[0] (quantize_dynamic)",
        "passes[0] (quantize_dynamic): score",
        "artifact",
        "artifact: score",
        "artifact: flops",
    ]
    assert report.latencies == ()
    assert report.missing["latencies"] == "no choice between the trials goes by time"


def test_a_store_and_force_contradict_each_other(base: dict[str, Any], tmp_path: Path):
    with pytest.raises(RecipeError, match="--force with --store"):
        compressor.run(base, output=tmp_path / "run", store=tmp_path / "store", force=True)


def test_a_store_in_what_a_run_replaces_is_refused(base: dict[str, Any], tmp_path: Path):
    place = tmp_path / "run" / "artifact" / "store"
    with pytest.raises(RecipeError, match=r"--store: .*which this run would replace"):
        compressor.run(base, output=tmp_path / "run", store=place)
    assert not place.exists()
