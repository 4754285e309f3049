"""A run that was stopped or edited goes on at the first step whose inputs changed."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import compressor
from compressor.errors import BudgetExceeded, EnvironmentMismatch
from compressor.measurements import RunReport
from compressor.models.torch_model import TorchModel
from compressor.passes import PASSES as KNOWN
from compressor.passes import PassContext
from compressor.passes.prune_magnitude.settings import PruneMagnitude

Run = Callable[..., RunReport]

PASSES = [
    {"kind": "prune_magnitude", "sparsity": 0.5},
    {"kind": "quantize_dynamic", "min_elements": 64},
]
SPARSER = {"kind": "prune_magnitude", "sparsity": 0.6}


@pytest.fixture(scope="module")
def base(bert_recipe: dict[str, Any]) -> dict[str, Any]:
    return {**bert_recipe, "passes": PASSES}


def run(recipe: dict[str, Any], output: Path, *, force: bool = False) -> RunReport:
    path = output.with_suffix(".json.yaml")
    path.write_text(json.dumps(recipe))
    loaded = compressor.load_recipe(path)
    return compressor.run(loaded, output=output, device="cpu", force=force)


@pytest.fixture(scope="module")
def finished(base: dict[str, Any], tmp_path_factory: Any) -> tuple[RunReport, Path]:
    output = tmp_path_factory.mktemp("finished") / "run"
    return run(base, output), output


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def redone(report: RunReport) -> list[str]:
    return [step.name for step in report.steps if not step.reused]


@pytest.fixture
def copied(finished: tuple[RunReport, Path], tmp_path: Path) -> Path:
    """Return a copy of the finished run, for a test to spoil."""
    return shutil.copytree(finished[1], tmp_path / "run")


def test_a_first_run_takes_nothing_from_anywhere(finished: tuple[RunReport, Path]):
    report, _ = finished
    assert redone(report) == [
        "baseline: reading",
        "baseline: score",
        "baseline: export",
        "baseline: parity",
        "baseline: flops",
        "passes[0] (prune_magnitude)",
        "passes[0] (prune_magnitude): score",
        "export",
        "parity",
        "passes[1] (quantize_dynamic)",
        "passes[1] (quantize_dynamic): score",
        "artifact",
        "artifact: score",
        "artifact: flops",
        "benchmark on cpu",
    ]
    assert [step.reused for step in report.passes] == [False, False]


def test_the_same_recipe_again_does_nothing_and_makes_the_same_bytes(
    finished: tuple[RunReport, Path], base: dict[str, Any], copied: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    first, output = finished
    monkeypatch.setattr("compressor.passes.prune_magnitude.apply.apply", must_not_run)
    monkeypatch.setattr(f"{KNOWN['quantize_dynamic'].work}.apply", must_not_run)
    again = run(base, copied)
    assert redone(again) == []
    assert contents(copied / "artifact") == contents(output / "artifact")
    assert again.latencies == first.latencies
    assert [dataclasses.replace(step, reused=False) for step in again.passes] == list(first.passes)
    assert [step.reused for step in again.passes] == [True, True]


def must_not_run(*arguments: object) -> None:
    raise AssertionError("a finished step was done again")


def test_an_edited_recipe_starts_at_the_step_that_changed(base: dict[str, Any], copied: Path):
    edited = {**base, "passes": [PASSES[0], {**PASSES[1], "embeddings": False}]}
    again = run(edited, copied)
    assert redone(again) == [
        "passes[1] (quantize_dynamic)",
        "passes[1] (quantize_dynamic): score",
        "artifact",
        "artifact: score",
        "artifact: flops",
        "benchmark on cpu",
    ]


def test_steps_of_the_earlier_recipe_are_gone_when_the_edited_one_succeeds(
    base: dict[str, Any], copied: Path
):
    before = len(list((copied / "steps").iterdir()))
    run({**base, "passes": [PASSES[0]], "benchmark": {"providers": []}}, copied)
    # Without the second pass, its score, and the benchmark.
    assert len(list((copied / "steps").iterdir())) == before - 3
    assert not (copied / "work").exists()


@pytest.mark.usefixtures("no_export")
def test_force_does_every_step_anew(base: dict[str, Any], copied: Path):
    with pytest.raises(EnvironmentMismatch) as caught:
        run(base, copied, force=True)
    assert redone(caught.value.report) == ["baseline: reading", "baseline: score"]


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("compressor.pipeline.cached_work.export_onnx", fail)


def test_a_damaged_step_is_done_again_and_the_report_says_so(
    finished: tuple[RunReport, Path], base: dict[str, Any], copied: Path
):
    [stored] = (copied / "steps").glob("*/checkpoint/model.safetensors")
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    again = run(base, copied)
    assert redone(again) == ["passes[0] (prune_magnitude)"]
    assert contents(copied / "artifact") == contents(finished[1] / "artifact")
    [sentence] = again.damaged_steps
    assert "passes[0] (prune_magnitude)" in sentence


def test_a_gate_that_failed_fails_again_without_the_work(
    base: dict[str, Any], copied: Path, monkeypatch: pytest.MonkeyPatch
):
    edited = {**base, "passes": [SPARSER], "budget": {"max_drop": 0.03}}
    monkeypatch.setattr("compressor.passes.prune_magnitude.apply.apply", ruin)
    with pytest.raises(BudgetExceeded) as first:
        run(edited, copied)
    assert redone(first.value.report) == [
        "passes[0] (prune_magnitude)",
        "passes[0] (prune_magnitude): score",
    ]
    monkeypatch.setattr("compressor.passes.prune_magnitude.apply.apply", must_not_run)
    with pytest.raises(BudgetExceeded) as second:
        run(edited, copied)
    assert redone(second.value.report) == []
    assert second.value.drop == first.value.drop


def ruin(self: PruneMagnitude, model: TorchModel, context: PassContext) -> TorchModel:
    """Swap the two predictions, so that an accuracy of 1 becomes 0."""
    with torch.no_grad():
        for parameter in (model.module.classifier.weight, model.module.classifier.bias):
            parameter.copy_(parameter.flip(0))
    return model


def test_an_unfinished_pass_gets_its_scratch_folder_back(
    base: dict[str, Any], copied: Path, monkeypatch: pytest.MonkeyPatch
):
    found: list[bool] = []

    def stop(self: PruneMagnitude, model: TorchModel, context: PassContext) -> TorchModel:
        mark = context.work_dir / "checkpoint-7"
        found.append(mark.exists())
        mark.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.passes.prune_magnitude.apply.apply", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run({**base, "passes": [SPARSER]}, copied)
    with pytest.raises(KeyboardInterrupt):
        run({**base, "passes": [{**SPARSER, "sparsity": 0.7}]}, copied)
    assert found == [False, True, False]
    report = json.loads((copied / "report.json").read_text())
    assert report["guilty_step"] == "passes[0] (prune_magnitude)"


def test_a_failed_gate_repairs_itself_and_a_second_run_repeats_no_try(
    base: dict[str, Any], copied: Path, monkeypatch: pytest.MonkeyPatch
):
    pruned = {
        "kind": "prune_structured",
        "ratio": 0.8,
        "importance": "magnitude",
        "may_empty_layers": True,
    }
    recipe = {
        **base,
        "passes": [pruned],
        "budget": {"max_drop": 0.18},
        "benchmark": {"providers": []},
        "on_failure": "repair",
        "repair": {"max_tries": 3},
    }
    report = run(recipe, copied)
    [record] = report.passes
    assert (report.verdict, record.verdict) == ("passed", "passed")
    assert record.drop is not None
    assert record.drop <= 0.18
    assert [item.settings["ratio"] for item in record.tries] == [0.8, 0.6, 0.4, 0.5]
    assert [item.verdict for item in record.tries[:2]] == ["budget_exceeded"] * 2
    [kept] = [item for item in record.tries if item.kept]
    assert record.settings == kept.settings
    assert kept.change == "ratio 0.8 -> 0.5"
    page = json.loads((copied / "report.json").read_text())
    assert [item["kept"] for item in page["passes"][0]["tries"]] == [False] * 3 + [True]

    monkeypatch.setattr("compressor.passes.prune_structured.apply.apply", must_not_run)
    again = run(recipe, copied)
    assert redone(again) == []
    assert again.passes[0].tries == record.tries


@pytest.mark.usefixtures("no_export")
def test_a_full_disk_loses_only_the_step_in_progress(base: dict[str, Any], copied: Path):
    edited = {**base, "passes": [SPARSER]}
    with pytest.raises(EnvironmentMismatch, match=r"export: .*free space.*again to resume"):
        run(edited, copied)
    with pytest.raises(EnvironmentMismatch) as caught:
        run(edited, copied)
    assert redone(caught.value.report) == []
    assert caught.value.report.passes[0].reused


KILLED = """
import os, signal, sys
from pathlib import Path
import compressor, compressor.pipeline.step_store
write, count = compressor.pipeline.step_store._force_to_disk, []
def die_at_the_sixth(folder):
    count.append(folder)
    if len(count) == 6:  # the pass is done and written, but does not have its name yet
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder)
compressor.pipeline.step_store._force_to_disk = die_at_the_sixth
recipe = compressor.load_recipe(sys.argv[1])
compressor.run(recipe, output=Path(sys.argv[2]), device="cpu")
"""


def test_a_killed_run_goes_on_and_makes_the_artifact_of_an_undisturbed_one(
    finished: tuple[RunReport, Path], base: dict[str, Any], tmp_path: Path
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(base))
    arguments = [sys.executable, "-c", KILLED, recipe, tmp_path / "run"]
    killed = subprocess.run(arguments, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    stored = {path.name for path in (tmp_path / "run" / "steps").glob("[!.]*")}
    assert len(stored) == 5
    again = run(base, tmp_path / "run")
    assert redone(again)[0] == "passes[0] (prune_magnitude)"
    assert stored <= {path.name for path in (tmp_path / "run" / "steps").iterdir()}
    assert contents(tmp_path / "run" / "artifact") == contents(finished[1] / "artifact")


def test_a_graph_that_is_judged_for_another_provider_is_scored_again(
    base: dict[str, Any], tmp_path: Path
):
    plain = {**base, "passes": [], "benchmark": {"providers": []}}
    run({**plain, "export": {"provider": "cpu", "fuse": False}}, tmp_path / "run")
    # Quantized pairs are computed as they are written there, and fused where they will run.
    elsewhere = {"provider": "tensorrt", "fuse": False, "evaluate_on": "cpu"}
    report = run({**plain, "export": elsewhere}, tmp_path / "run")
    assert "artifact: score" in redone(report)
    assert "baseline: score" not in redone(report)
