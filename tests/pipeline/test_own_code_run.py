"""A recipe that names code of the user's own runs where that is allowed, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import compressor
from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.pipeline.preflight import check_inputs, load_whole
from compressor.report.render import read_report
from compressor.report.run_report import RunReport

METRIC = """\
def surely(inputs):
    return [float(p["score"] if p["label_id"] == k else 1 - p["score"])
            for p, k in zip(inputs.predictions, inputs.labels, strict=True)]
"""
ROWS = """\
def joined(row):
    if row["words"] == "":
        return None
    return {"text": row["words"] + " " + row["more"], "label": int(row["stars"])}
"""
MARK = "__import__('pathlib').Path(__file__).with_name('ran').touch()\n"


@pytest.fixture(scope="module")
def folder(
    tiny_bert_dir: Path, text_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("own-code")
    (folder / "my_metric.py").write_text(MARK + METRIC)
    (folder / "my_rows.py").write_text(ROWS)
    lines = [
        ",".join([*str(text).rsplit(" ", 1), str(row % 2)])
        for row, text in enumerate(text_dataset.examples)
    ]
    (folder / "rows.csv").write_text("\n".join(["words,more,stars", *lines, ",x,0", ""]))
    recipe = {
        "model": {"checkpoint": str(tiny_bert_dir)},
        "data": {"preprocess": "my_rows.py:joined", "search": {"path": "rows.csv"}},
        "budget": {"metric": "my_metric.py:surely", "max_drop": 0.9},
        "passes": [],
        "benchmark": {"providers": []},
        "output": "run",
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1))
    return folder


def with_code(folder: Path, key: str, code: str, **changes: Any) -> Path:
    """Return a recipe beside the other whose code is another."""
    recipe = json.loads((folder / "recipe.yaml").read_text())
    (folder / "other.py").write_text(code)
    section, name = key.split(".")
    recipe[section][name] = "other.py:own"
    path = folder / "other.yaml"
    path.write_text(json.dumps({**recipe, **changes}, indent=1))
    return path


def test_without_leave_nothing_is_imported_and_the_flag_is_named(folder: Path):
    for call in (
        lambda: compressor.run(folder / "recipe.yaml"),
        lambda: check_inputs(load_whole(folder / "recipe.yaml")),
    ):
        with pytest.raises(RecipeError) as caught:
            call()
        first, second = caught.value.mistakes
        assert first.startswith(f"{folder}/recipe.yaml:6: data.preprocess: {folder}/my_rows.py:")
        assert second.startswith(f"{folder}/recipe.yaml:12: budget.metric: {folder}/my_metric.py:")
        assert all("--allow-code (allow_code=True in Python)" in line for line in (first, second))
    assert not (folder / "ran").exists()
    assert not (folder / "run").exists()


@pytest.mark.parametrize("command", ["run", "validate"])
def test_the_commands_refuse_it_with_exit_code_2(folder: Path, command: str):
    call = [sys.executable, "-m", "compressor", command, str(folder / "recipe.yaml")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("--allow-code") == 2
    assert not (folder / "ran").exists()


@pytest.fixture(scope="module")
def allowed(folder: Path) -> RunReport:
    return compressor.run(folder / "recipe.yaml", device="cpu", allow_code=True)


def test_the_report_says_whose_code_its_numbers_come_from(folder: Path, allowed: RunReport):
    digests = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("my_metric.py", "my_rows.py")
    ]
    assert (allowed.verdict, allowed.metric) == ("passed", "my_metric.py:surely")
    assert [(item.key, item.function, item.sha256) for item in allowed.own_code] == [
        ("budget.metric", "my_metric.py:surely", digests[0]),
        ("data.preprocess", "my_rows.py:joined", digests[1]),
    ]
    assert read_report(folder / "run").own_code == allowed.own_code
    for text in (
        (folder / "run/report.html").read_text(),
        (folder / "run/report.md").read_text(),
        (folder / "run/artifact/README.md").read_text(),
    ):
        assert "surely in my" in text.replace("\\", "")
        assert all(digest in text for digest in digests)
    manifest = json.loads((folder / "run/artifact/manifest.json").read_text())
    assert manifest["own_code"] == {
        "budget.metric": ["my_metric.py:surely", digests[0]],
        "data.preprocess": ["my_rows.py:joined", digests[1]],
    }


def test_rows_are_those_that_came_out(allowed: RunReport):
    assert allowed.splits[0].num_examples == 48
    assert "(through my_rows.py:joined, which left out 1)" in allowed.splits[0].source


def test_a_changed_metric_is_asked_anew_and_a_note_in_the_rows_is_not(
    folder: Path, allowed: RunReport
):
    (folder / "my_rows.py").write_text(f"# a note\n{ROWS}")
    again = compressor.run(folder / "recipe.yaml", device="cpu", allow_code=True)
    assert all(step.reused for step in again.steps)
    (folder / "my_metric.py").write_text(METRIC.replace("1 - p", "0 * p"))
    changed = compressor.run(folder / "recipe.yaml", device="cpu", allow_code=True)
    anew = [step.name for step in changed.steps if not step.reused]
    assert anew == ["baseline: score", "artifact: score"]
    assert changed.baseline is not None
    assert allowed.baseline is not None
    assert changed.baseline.score.value < allowed.baseline.score.value


def test_what_the_code_raises_ends_a_run_with_its_traceback_in_the_report(folder: Path):
    path = with_code(folder, "budget.metric", "def own(inputs):\n    return 1 / 0\n", output="bad")
    with pytest.raises(RecipeError) as caught:
        compressor.run(path, device="cpu", allow_code=True)
    told = str(caught.value)
    assert told.startswith(f"{path}:12: budget.metric: {folder}/other.py:2: own raised ZeroDivi")
    assert "line 2, in own\n    return 1 / 0" in told
    assert caught.value.report.verdict == "failed"
    assert "other.py:2: own raised ZeroDivisionError" in (folder / "bad/report.html").read_text()


def test_validate_finds_what_is_wrong_with_rows_and_code_at_once(folder: Path):
    path = with_code(folder, "data.preprocess", "def own(row):\n    return {'text': row['a']}\n")
    (folder / "my_metric.py").write_text(METRIC)
    with pytest.raises(RecipeError) as caught:
        check_inputs(load_whole(path, allow_code=True))
    assert "other.py:2: own raised KeyError: 'a', for " in str(caught.value)
    assert f"{folder}/rows.csv:2" in str(caught.value)


def test_a_file_that_is_not_there_is_missing_with_its_line(folder: Path):
    path = with_code(folder, "budget.metric", "")
    (folder / "other.py").unlink()
    with pytest.raises(
        EnvironmentMismatch, match=r"other\.yaml:12: budget\.metric: .*other\.py does"
    ):
        compressor.run(path, allow_code=True)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("my_metric.py", "must be a file and a function in it, such as my_code.py:clean"),
        ("my_metric.py:1st", "must end in the name of a function, got '1st'"),
    ],
)
def test_a_reference_without_a_function_is_a_mistake(folder: Path, metric: str, told: str):
    recipe = json.loads((folder / "recipe.yaml").read_text())
    recipe["budget"]["metric"] = metric
    with pytest.raises(RecipeError, match=told):
        compressor.load_recipe(recipe)
