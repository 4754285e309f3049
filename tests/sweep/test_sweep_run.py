"""One small sweep for real, by the command line, and what it must not do twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import compressor
from compressor import cli
from compressor.report.render import read_report


@pytest.fixture(scope="module")
def swept(bert_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output directory of a sweep over how the tables of a tiny BERT are stored."""
    folder = tmp_path_factory.mktemp("swept")
    rows = dict(bert_recipe["data"])
    data = {**rows, "certification": rows.pop("search")}  # from which the search split is cut
    del data["search"]
    passes = [{"kind": "quantize_dynamic", "min_elements": 64}]
    (folder / "recipe.yaml").write_text(json.dumps({**bert_recipe, "data": data, "passes": passes}))
    sweep = {
        "recipe": "recipe.yaml",
        "space": {"passes.0.embeddings": {"choices": [False, True]}},
        "objectives": {"bytes": "minimize", "latency_ms": "minimize"},
        "sampler": "grid",
        "output": "out",
    }
    (folder / "sweep.yaml").write_text(json.dumps(sweep))
    command = ["compress", "sweep", str(folder / "sweep.yaml"), "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--allow-inconclusive"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert not caught.value.code
    return folder / "out"


def test_what_both_trials_need_is_done_once(swept: Path):
    reports = [read_report(swept / "trials" / name) for name in ("0001", "0002")]
    done = [step.name for report in reports for step in report.steps if not step.reused]
    assert done.count("baseline: export") == 1
    assert done.count("baseline: score") == 1
    assert done.count("passes[0] (quantize_dynamic)") == 2


def test_the_certification_rows_are_read_once_and_by_the_chosen_recipe(swept: Path):
    trials = [read_report(swept / "trials" / name) for name in ("0001", "0002")]
    assert [report.certification for report in trials] == [None, None]
    assert list(swept.rglob("readings.json")) == [swept / "best" / "readings.json"]
    assert len(json.loads((swept / "best" / "readings.json").read_text())) == 1


def test_the_front_follows_from_the_reports_of_the_trials(swept: Path):
    sizes, times = {}, {}
    for number in (1, 2):
        report = read_report(swept / "trials" / f"{number:04}")
        assert report.final is not None
        sizes[number] = report.final.size.bytes_on_disk
        [times[number]] = [item.deciding_ms for item in report.latencies if item.model == "final"]
    front = json.loads((swept / "front.json").read_text())
    figures = {item["number"]: item["figures"] for item in front["trials"]}
    assert {number: item["bytes"] for number, item in figures.items()} == sizes
    assert {number: item["latency_ms"] for number, item in figures.items()} == times
    assert front["best"] == min(sizes, key=lambda number: sizes[number])
    other = 3 - front["best"]
    assert front["front"] == sorted(
        {front["best"], *([other] if times[other] < times[front["best"]] else [])}
    )


def test_the_recipe_that_is_written_makes_the_bytes_of_the_trial(swept: Path, tmp_path: Path):
    best = json.loads((swept / "front.json").read_text())["best"]
    compressor.run(
        swept / "best.yaml", output=tmp_path / "run", device="cpu", allow_inconclusive=True
    )
    files = list((swept / "trials" / f"{best:04}" / "artifact").iterdir())
    assert len(files) >= 3
    for path in files:
        assert (tmp_path / "run" / "artifact" / path.name).read_bytes() == path.read_bytes()
        assert (swept / "best" / "artifact" / path.name).read_bytes() == path.read_bytes()
