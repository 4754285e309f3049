"""The command line: arguments in, exit code out, messages that say what to do."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor import cli
from compressor.errors import (
    BudgetExceeded,
    EnvironmentMismatch,
    NotCertified,
    PassError,
    RecipeError,
)

ROOT = Path(__file__).parents[1]
Compress = Callable[..., int]


@pytest.fixture
def compress(monkeypatch: pytest.MonkeyPatch) -> Compress:
    """Return a function that runs the command line and gives the exit code."""

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("text,label\nfine,1\nbad,0\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {checkpoint: ./checkpoint}\n"
        "data:\n"
        "  text: text\n"
        "  search: {path: rows.csv}\n"
        "budget: {max_drop: 0.5}\n"
        "passes: []\n"
    )
    return path


@pytest.mark.parametrize(("own", "kept"), [(None, "1"), ("0", "0")])
def test_onnx_runtime_reports_no_usage_unless_it_is_told_to(
    compress: Compress, monkeypatch: pytest.MonkeyPatch, own: str | None, kept: str
):
    environment = {} if own is None else {"ORT_DISABLE_TELEMETRY": own}
    monkeypatch.setattr(cli.os, "environ", environment)
    assert compress("--version") == 0
    assert environment == {"ORT_DISABLE_TELEMETRY": kept}


def test_help_names_the_exit_codes(compress: Compress, capsys: pytest.CaptureFixture[str]):
    assert compress("--help") == 0
    assert "5 budget exceeded, 6 budget not proven" in " ".join(capsys.readouterr().out.split())


def test_help_shows_no_value_beside_a_flag(compress: Compress, capsys: pytest.CaptureFixture[str]):
    compress("run", "--help")
    [line] = [line for line in capsys.readouterr().out.splitlines() if "--verbose" in line]
    assert "<" not in line


def test_the_version_is_printed(compress: Compress, capsys: pytest.CaptureFixture[str]):
    assert compress("--version") == 0
    assert capsys.readouterr().out == "compressor 0.1.0\n"


def test_a_valid_recipe_is_said_to_be_valid(
    compress: Compress, recipe: Path, capsys: pytest.CaptureFixture[str], tiny_bert_dir: Path
):
    assert compress("validate", recipe, "--set", f"model.checkpoint={tiny_bert_dir}") == 0
    assert "valid (export only)" in capsys.readouterr().out


def test_a_misspelt_key_exits_with_2_and_its_line(
    compress: Compress, recipe: Path, capsys: pytest.CaptureFixture[str]
):
    recipe.write_text(recipe.read_text().replace("passes:", "pases:"))
    assert compress("validate", recipe) == 2
    message = capsys.readouterr().err
    assert f"\n{recipe}:6: pases: unknown key 'pases', did you mean 'passes'?" in message


def test_a_missing_data_file_exits_with_3(
    compress: Compress, recipe: Path, capsys: pytest.CaptureFixture[str]
):
    assert compress("validate", recipe, "--set", "data.search.path=absent.csv") == 3
    assert "absent.csv" in capsys.readouterr().err


def test_validate_knows_the_metrics_of_the_checkpoints_task(
    compress: Compress, recipe: Path, capsys: pytest.CaptureFixture[str], tiny_bert_dir: Path
):
    local = ("--set", f"model.checkpoint={tiny_bert_dir}")
    assert compress("validate", recipe, *local, "--set", "budget.metric=accuracyy") == 2
    told = capsys.readouterr().err
    assert "text-classification has no metric 'accuracyy', did you mean 'accuracy'?" in told
    on_the_hub = ("--set", "model.checkpoint=org/name")
    assert compress("validate", recipe, *on_the_hub, "--set", "budget.metric=accuracyy") == 2
    assert "no task has a metric 'accuracyy', did you mean 'accuracy'?" in capsys.readouterr().err


def test_validate_compares_labels_with_those_of_the_checkpoint(
    compress: Compress, recipe: Path, capsys: pytest.CaptureFixture[str], tiny_bert_dir: Path
):
    rows = recipe.parent / "others.csv"
    rows.write_text("text,label\n" + "a film,9\n" * 20)
    changes = (f"model.checkpoint={tiny_bert_dir}", f"data.search.path={rows}")
    assert compress("validate", recipe, "--set", changes[0], "--set", changes[1]) == 2
    assert "label 9 is outside 0..1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "init", "inspect"])
def test_a_head_of_other_labels_is_refused_by_every_command(
    compress: Compress,
    recipe: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    tiny_bert_dir: Path,
):
    copy = shutil.copytree(tiny_bert_dir, recipe.parent / "checkpoint")
    names = {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **names}))
    rows = ("--data", recipe.parent / "rows.csv") if command == "init" else ()
    assert compress(command, recipe if command == "validate" else copy, *rows) == 3
    assert "has 2 rows, one for each label, but id2label names 1 label" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_budget_finer_than_one_example_is_told_before_anything_is_done(
    compress: Compress, recipe: Path, command: str, capsys: pytest.CaptureFixture[str]
):
    # The checkpoint does not exist, and a run would say so if it came that far.
    arguments = ["--output", recipe.parent / "out"] if command == "run" else []
    arguments += ["--set", "model.task=text-classification", "--set", "budget.max_drop=0.4"]
    assert compress(command, recipe, *arguments) == 2
    message = capsys.readouterr().err
    assert "budget.max_drop=0.4: 0.4 is finer than one of the 2 examples" in message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RecipeError("wrong"), 2),
        (EnvironmentMismatch("absent"), 3),
        (PassError("broken", kind="finetune", position=0), 4),
        (BudgetExceeded("step", metric="accuracy", drop=0.2, max_drop=0.1), 5),
        (
            NotCertified(
                metric="accuracy", drop=0.0, max_drop=0.1, upper_bound=0.2, needed_examples=90
            ),
            6,
        ),
    ],
)
def test_each_error_has_its_exit_code(
    compress: Compress, recipe: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
):
    def fail(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr("compressor.pipeline.run.run", fail)
    assert compress("run", recipe, "--output", "unused") == code


def test_a_forgotten_extra_is_named_in_place_of_a_traceback(
    compress: Compress, recipe: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    def fail(*arguments: Any, **settings: Any) -> None:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("compressor.pipeline.run.run", fail)
    assert compress("run", recipe, "--output", "unused") == 3
    assert "pip install onnxruntime," in capsys.readouterr().err


def test_ctrl_c_exits_with_130(
    compress: Compress, recipe: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    def stop(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.pipeline.run.run", stop)
    assert compress("run", recipe, "--output", "unused") == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_run_that_was_stopped_says_how_far_it_came(
    compress: Compress, recipe: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    def stop(*arguments: Any, **settings: Any) -> None:
        interrupt = KeyboardInterrupt()
        interrupt.add_note("Stopped by you after pass 2 of 3; run the same command again to resume")
        raise interrupt

    monkeypatch.setattr("compressor.pipeline.run.run", stop)
    assert compress("run", recipe, "--output", "unused") == 130
    assert capsys.readouterr().err == (
        "Stopped by you after pass 2 of 3; run the same command again to resume.\n"
    )


def test_sigterm_exits_with_143_like_ctrl_c(
    compress: Compress, recipe: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    def stop(*arguments: Any, **settings: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("compressor.pipeline.run.run", stop)
    try:
        assert compress("run", recipe, "--output", "unused") == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "run the same command again" in capsys.readouterr().err


def test_a_missing_checkpoint_exits_with_3_and_leaves_a_report(
    compress: Compress, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert compress("run", recipe, "--output", tmp_path / "run", "--device", "cpu") == 3
    assert "no such directory" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "report.json").read_text())["verdict"] == "failed"


def test_passes_lists_every_setting_with_its_default(
    compress: Compress, capsys: pytest.CaptureFixture[str]
):
    assert compress("passes", "quantize_dynamic") == 0
    shown = capsys.readouterr().out
    assert "min_elements" in shown
    assert "2048" in shown


def test_an_unknown_pass_lists_the_known_ones(
    compress: Compress, capsys: pytest.CaptureFixture[str]
):
    assert compress("passes", "quantise") == 2
    assert "prune_structured" in capsys.readouterr().err


def test_comparing_a_directory_without_a_report_exits_with_3(
    compress: Compress, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert compress("compare", tmp_path) == 3
    assert "report.json" in capsys.readouterr().err


def test_the_module_runs_like_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "compressor", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert result.stdout == "compressor 0.1.0\n"


def test_inspecting_a_missing_file_exits_with_3(
    compress: Compress, capsys: pytest.CaptureFixture[str]
):
    assert compress("inspect", "absent.onnx") == 3
    assert "absent.onnx: no such file" in capsys.readouterr().err


def test_inspect_prints_nothing_but_json_to_standard_output(
    compress: Compress, tiny_bert_dir: Path, capsys: pytest.CaptureFixture[str]
):
    assert compress("inspect", tiny_bert_dir, "--no-timing", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "checkpoint"


def test_init_writes_a_recipe_that_validate_accepts(
    compress: Compress,
    tiny_bert_dir: Path,
    bert_recipe: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    rows, output = bert_recipe["data"]["search"]["path"], tmp_path / "starter.yaml"
    assert compress("init", tiny_bert_dir, "--data", rows, "--output", output) == 0
    assert f"wrote {output}" in capsys.readouterr().out
    assert compress("validate", output) == 0
    assert compress("init", tiny_bert_dir, "--data", rows, "--output", output) == 2


def test_a_comparison_that_cannot_be_written_exits_with_3(
    compress: Compress,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setattr("compressor.report.render.read_report", lambda _: {})
    for kind in ("text", "html"):
        monkeypatch.setattr(f"compressor.report.compare.render_comparison_{kind}", lambda _: "")
    assert compress("compare", tmp_path, "--html", tmp_path / "nowhere" / "x.html") == 3
    assert "give a file in a directory that exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("checkpoint", "steps", "place"),
    [
        ("./nowhere", "[]", "recipe.yaml:1: model.checkpoint: "),
        ("./there", "[{kind: distill, teacher: ./nowhere}]", "recipe.yaml:6: passes[0].teacher: "),
    ],
)
def test_validate_looks_for_checkpoints_that_are_not_on_the_hub(
    compress: Compress,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_bert_dir: Path,
    checkpoint: str,
    steps: str,
    place: str,
):
    (recipe.parent / "there").symlink_to(tiny_bert_dir)
    (recipe.parent / "rows.csv").write_text("text,label\n" + "fine,1\nbad,0\n" * 9)
    text = recipe.read_text().replace("./checkpoint", checkpoint)
    recipe.write_text(text.replace("passes: []", f"passes: {steps}"))
    assert compress("validate", recipe) == 3
    told = capsys.readouterr().err
    assert place in told
    assert "no such directory; a checkpoint is a directory" in told


def test_a_comparison_is_not_written_into_a_pipe(
    compress: Compress, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    os.mkfifo(tmp_path / "page.html")
    assert compress("compare", tmp_path, "--html", tmp_path / "page.html") == 3
    assert "is a named pipe, not a file" in capsys.readouterr().err


def test_validate_and_run_name_a_packed_file_and_not_the_number_of_its_rows(
    compress: Compress, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = tmp_path / "rows.tsv"
    rows.write_bytes(gzip.compress(b"label\ttext\n1\ta film\n0\ta plot\n"))
    options = ["--set", f"data.search.path={rows}", "--set", "budget.max_drop=0.05"]
    assert compress("validate", recipe, *options) == 2
    assert compress("run", recipe, *options, "--output", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert told.count("is a gzip file, no UTF-8 text of rows") == 2
    assert "finer than one" not in told
