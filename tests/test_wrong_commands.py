"""What a newcomer gives by mistake: one message that says what it is and what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor import cli

Told = Callable[..., str]


@pytest.fixture
def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Told:
    """Return a function that runs the command line in a folder and gives what it says, unwrapped.

    What is told has to come with exit code 2 or 3.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compress", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code in (2, 3)
        return " ".join(capsys.readouterr().err.replace("│", " ").split())

    return call


@pytest.mark.parametrize(
    ("arguments", "need"),
    [
        (["run"], "compress run needs a recipe: compress run recipe.yaml"),
        (["validate"], "compress validate needs a recipe: compress validate recipe.yaml"),
        (["init"], "compress init needs a checkpoint and rows: compress init ./my-model --data"),
        (["init", "model"], "Missing option '--data'. compress init needs a checkpoint and rows"),
        (["inspect"], "compress inspect needs a checkpoint, an .onnx file or an artifact"),
        (["compare"], "compress compare needs output directories of runs: compress compare runs/"),
        (["vaidate", "r.yaml"], "No such command 'vaidate'. Did you mean 'validate'?"),
        (["run", "--ouput", "x", "r.yaml"], "No such option: --ouput (Possible options: --output)"),
    ],
)
def test_what_a_command_lacks_is_told_with_an_example(told: Told, arguments: list[str], need: str):
    assert need in told(*arguments)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        (
            "rows.csv",
            "is a file of rows, not a recipe; write a recipe with compress init CHECKPOINT",
        ),
        ("model.onnx", "is a file of a model, not a recipe"),
        ("model.safetensors", "is a file of a model, not a recipe"),
        ("recipe.yml", "does not exist; give the path of a recipe"),
    ],
)
def test_another_file_in_place_of_a_recipe_is_named_for_what_it_is(
    told: Told, name: str, mistake: str
):
    assert f"{name}: {mistake}" in told("run", name)


def test_a_checkpoint_in_place_of_a_recipe_is_what_init_takes(told: Told, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "is a checkpoint, not a recipe; write a recipe for it with compress init model" in told(
        "run", "model"
    )


def test_a_run_in_place_of_a_recipe_is_told(told: Told, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("{}")
    assert "is the output directory of a run; give the recipe" in told("run", "out")


def test_a_misspelt_recipe_gets_the_nearest_one_beside_it(told: Told, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("passes: []\n")
    assert "did you mean 'recipe.yaml'? (here: recipe.yaml)" in told("validate", "recip.yaml")


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("model:\n\tcheckpoint: x\n", "r.yaml:2: a tab, which YAML does not take; indent with"),
        ("", "r.yaml:1: the recipe is empty; it needs model, data, budget and passes"),
        (json.dumps({"model": {"checkpoint": "x"}}), "r.yaml:1: required key 'data' is missing"),
        ("hello\n", "r.yaml:1: a recipe is a mapping with keys such as model and data, got"),
    ],
)
def test_a_file_that_is_no_recipe_says_where(told: Told, tmp_path: Path, text: str, mistake: str):
    (tmp_path / "r.yaml").write_text(text)
    assert mistake in told("run", "r.yaml")


@pytest.mark.parametrize("name", ["recipe.yaml", "config.json", "rows.csv"])
def test_inspect_says_what_it_can_look_at(told: Told, tmp_path: Path, name: str):
    (tmp_path / name).write_text("{}")
    assert f"{name}: is no model; give a checkpoint" in told("inspect", name)


def test_a_checkpoint_that_is_nowhere_is_one_line(told: Told):
    message = told("inspect", "nowhere", "--no-timing")
    assert "nowhere: no such directory, and it could not be fetched from the Hub" in message
    assert len(message) < 400


def test_a_comparison_of_one_run_says_how_to_put_others_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("compressor.report.render.read_report", lambda _: {})
    monkeypatch.setattr("compressor.report.compare.render_comparison_text", lambda _: "a table")
    monkeypatch.setattr(sys, "argv", ["compress", "compare", "runs/a"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert "this is one run; put others beside it: compress compare runs/a OTHER" in shown


def test_help_names_the_commands_in_the_order_of_use_and_every_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["compress", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    names = ["init", "validate", "run", "compare", "inspect", "passes"]
    places = [shown.index(f"│ {name} ") for name in names]
    assert places == sorted(places)
    words = " ".join(shown.split())
    assert "1 a bug in compressor, 2 bad recipe or arguments, 3 environment" in words
    assert "130 stopped by Ctrl-C, 143 stopped by SIGTERM" in words
    assert "<bool>" not in words
