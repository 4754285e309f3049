"""Fresh rows say how far an artifact predicts what its original does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from compressor.artifact import load_artifact, seal_artifact
from compressor.cli import app
from compressor.errors import BudgetExceeded, EnvironmentMismatch, NotCertified, RecipeError
from compressor.progress import SILENT
from compressor.shadow import Shadow, require_kept, shadow, write_changed


@pytest.fixture(scope="module")
def rows(balanced_rows: Path) -> Path:
    return balanced_rows


@pytest.fixture(scope="module")
def original(tiny_bert_dir: Path) -> str:
    return str(tiny_bert_dir)


def compared(folder: Path, original: str, rows: Path, **settings: object) -> Shadow:
    return shadow(folder, against=original, data=rows, progress=SILENT, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def turned(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a checkpoint whose head says the opposite."""
    folder = Path(shutil.copytree(tiny_bert_dir, tmp_path_factory.mktemp("turned") / "model"))
    weights = load_file(folder / "model.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = np.ascontiguousarray(weights[key][::-1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_the_same_model_changes_nothing(served_folder: Path, original: str, rows: Path):
    found = compared(served_folder, original, rows, max_drop=0.2)
    assert found.changed == ()
    assert (found.metric, found.after.value) == ("agreement", 1.0)
    assert found.num_rows == len(rows.read_text().splitlines())
    # The rule of three, exactly: what no change in so many rows proves.
    assert found.certificate.upper_bound == pytest.approx(1 - 0.05 ** (1 / found.num_rows))
    assert found.verdict == "certified"
    require_kept(found)
    assert "0 predictions changed (0.00%)" in found.text()
    # As in a report: rounded to the side on which a bound holds, and never to certainty.
    proof = replace(found.certificate, confidence=0.9995, upper_bound=0.01001, max_drop=0.01)
    told = replace(found, certificate=proof).text()
    assert "with 99.95% confidence agreement is lower by at most 1.01 points" in told


def test_another_model_is_refuted_and_its_changes_are_written(
    served_folder: Path, turned: str, rows: Path, tmp_path: Path
):
    found = compared(served_folder, turned, rows, max_drop=0.2)
    assert len(found.changed) == found.num_rows
    with pytest.raises(BudgetExceeded, match=r"shadow: agreement .*--max-drop") as caught:
        require_kept(found)
    assert caught.value.exit_code == 5
    write_changed(tmp_path / "changed.jsonl", found)
    lines = [json.loads(line) for line in (tmp_path / "changed.jsonl").read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(found.num_rows))
    assert {line["before"] for line in lines} | {line["after"] for line in lines} <= {
        "negative",
        "positive",
    }
    with pytest.raises(EnvironmentMismatch, match="--changed"):
        write_changed(tmp_path / "absent" / "changed.jsonl", found)


def test_too_few_rows_tell_nothing_and_say_how_many_would(
    served_folder: Path, original: str, rows: Path
):
    found = compared(served_folder, original, rows, max_drop=0.01, max_rows=20)
    assert (found.num_rows, found.verdict) == (20, "inconclusive")
    with pytest.raises(NotCertified, match=r"shadow: .* rows in all, raise --max-drop$") as caught:
        require_kept(found)
    assert caught.value.exit_code == 6


def test_without_a_budget_it_informs(served_folder: Path, turned: str, rows: Path):
    found = compared(served_folder, turned, rows)
    assert (found.max_drop, found.verdict) == (None, None)
    require_kept(found)


def test_the_artifacts_own_budget_is_asked_for_with_its_confidence(
    served_folder: Path, original: str, rows: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(served_folder, tmp_path / "artifact"))
    budget = {"metric": "agreement", "max_drop": 0.3, "confidence": 0.99}
    model = load_artifact(served_folder)
    labels = model.manifest["labels"]
    seal_artifact(folder, task=model.task, labels=labels, facts={"recipe": {"budget": budget}})
    found = compared(folder, original, rows, max_rows=20)
    assert (found.max_drop, found.certificate.confidence) == (0.3, 0.99)
    assert (
        compared(folder, original, rows, max_rows=20, confidence=0.9).certificate.confidence == 0.9
    )
    given = compared(folder, original, rows, max_rows=20, max_drop=0.2)
    assert (given.max_drop, given.certificate.confidence) == (0.2, 0.95)


def test_what_does_not_go_together_is_refused(
    served_folder: Path, original: str, rows: Path, tmp_path: Path
):
    with pytest.raises(RecipeError, match="'words'"):
        compared(served_folder, original, rows, text=("words",))
    with pytest.raises(RecipeError, match=r"^ROWS: .*'qid'"):
        compared(served_folder, original, rows, group="qid")
    with pytest.raises(EnvironmentMismatch, match="does not exist"):
        compared(served_folder, original, tmp_path / "absent.jsonl")
    spoiled = tmp_path / "spoiled.jsonl"
    spoiled.write_text('{"text": "a film"}\n{"text": ""}\n')
    with pytest.raises(RecipeError, match=r"^ROWS: .*is empty"):
        compared(served_folder, original, spoiled)
    named = Path(shutil.copytree(original, tmp_path / "named"))
    config = json.loads((named / "config.json").read_text())
    config["id2label"] = {"0": "positive", "1": "negative"}
    config["label2id"] = {"positive": 0, "negative": 1}
    (named / "config.json").write_text(json.dumps(config))
    with pytest.raises(EnvironmentMismatch, match="give the checkpoint that it was made of"):
        compared(served_folder, str(named), rows)


def test_rows_that_a_function_of_the_users_made_are_not_taken_for_those_before_it(
    served_folder: Path, original: str, rows: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(served_folder, tmp_path / "artifact"))
    facts = {"recipe": {"data": {"preprocess": "my_rows.py:clean"}}}
    model = load_artifact(served_folder)
    seal_artifact(folder, task=model.task, labels=model.manifest["labels"], facts=facts)
    with pytest.raises(RecipeError, match=r"went through my_rows.py:clean.*--text text"):
        compared(folder, original, rows)
    assert compared(folder, original, rows, text=("text",), max_rows=4).num_rows == 4


def test_the_command_prints_json_and_ends_with_a_code(
    served_folder: Path, turned: str, original: str, rows: Path
):
    def run(against: str, *more: str) -> tuple[object, str]:
        command = ["shadow", str(served_folder), str(rows), "--against", against, "--json", *more]
        result = CliRunner().invoke(app, command)
        return result.exception, result.stdout

    error, text = run(original, "--max-drop", "0.2")
    assert error is None
    facts = json.loads(text)
    assert (facts["verdict"], facts["changed"], facts["task"]) == (
        "certified",
        0,
        "text-classification",
    )
    error, text = run(turned, "--max-drop", "0.2")
    assert isinstance(error, BudgetExceeded)
    assert json.loads(text)["verdict"] == "refuted"
