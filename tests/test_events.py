from __future__ import annotations

import io
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compressor.cli import app
from compressor.errors import BudgetExceeded, RecipeError, Terminated
from compressor.events import JsonProgress


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_whatever_is_told_is_a_line_of_json():
    stream, ticks = io.StringIO(), count(0, 0.4)
    progress = JsonProgress(stream, clock=lambda: next(ticks))
    progress.stage('baseline: "score" it\n\ud800')
    with progress.whole(lambda: 41.23):
        progress.result("accuracy 89.7%")
        progress.upcoming("export")
        with progress.bar("train", 10) as advance:
            for _ in range(10):
                advance(1, "loss 0.3")
    progress.upcoming("nothing")
    found = lines(stream.getvalue())
    assert [line["event"] for line in found[:3]] == ["stage", "result", "next"]
    assert found[0]["title"] == 'baseline: "score" it\n\ud800'
    assert found[2]["seconds_left"] == 41.2
    bars = [line for line in found if line["event"] == "progress"]
    assert [bar["done"] for bar in bars] == sorted({bar["done"] for bar in bars})
    assert 2 <= len(bars) <= 5  # one a second, and the last
    assert (bars[-1]["done"], bars[-1]["total"]) == (10, 10)
    assert bars[0]["detail"] == "loss 0.3"
    assert found[-1] == {
        "event": "next",
        "seconds": found[-1]["seconds"],
        "text": "nothing",
        "seconds_left": None,
    }
    assert [line["seconds"] for line in found] == sorted(line["seconds"] for line in found)


def test_a_bar_that_did_nothing_says_nothing():
    stream = io.StringIO()
    with JsonProgress(stream).bar("load", None):
        pass
    assert stream.getvalue() == ""


def test_a_recipe_that_is_wrong_ends_in_an_event(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {}\n")
    result = CliRunner().invoke(app, ["run", str(recipe), "--json"])
    assert isinstance(result.exception, RecipeError)
    (end,) = lines(result.stdout)
    assert (end["event"], end["exit_code"], end["type"]) == ("error", 2, "RecipeError")
    assert "model" in end["message"]


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_run_that_is_stopped_ends_in_an_event(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: type[BaseException], code: int
):
    def stopped(*arguments: object, **settings: object) -> None:
        raise stop

    monkeypatch.setattr("compressor.pipeline.preflight.load_whole", stopped)
    result = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), "--json"])
    assert result.exit_code == code
    (end,) = lines(result.stdout)
    assert (end["event"], end["exit_code"], end["type"]) == ("error", code, stop.__name__)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("half a layer"), 1),
        (MemoryError(), 3),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), 3),
    ],
)
def test_a_bug_or_a_lack_ends_in_an_event_too(error: Exception, code: int):
    stream = io.StringIO()
    progress = JsonProgress(stream)
    with pytest.raises(type(error)), progress.to_the_end():
        raise error
    (end,) = lines(stream.getvalue())
    assert (end["event"], end["exit_code"], end["type"]) == ("error", code, type(error).__name__)
    assert end["message"]


def test_one_end_is_enough():
    stream = io.StringIO()
    progress = JsonProgress(stream)

    def fail() -> None:
        error = RecipeError(["wrong"])
        progress.ended_by(error, None)
        raise error

    with pytest.raises(RecipeError), progress.to_the_end():
        fail()
    assert len(lines(stream.getvalue())) == 1


@pytest.mark.parametrize("broken", [False, True])
def test_a_run_ends_in_an_event_that_leads_to_its_report(
    tiny_bert_dir: Path, balanced_rows: Path, tmp_path: Path, broken: bool
):
    recipe = tmp_path / "recipe.yaml"
    passes = "[{kind: prune_magnitude, sparsity: 0.99}]" if broken else "[]"
    recipe.write_text(
        f"model: {{checkpoint: {tiny_bert_dir}, task: text-classification}}\n"
        f"data: {{text: text, label: label, search: {{path: {balanced_rows}}}}}\n"
        f"budget: {{metric: agreement, max_drop: 0.01}}\n"
        f"passes: {passes}\n"
        "benchmark: {providers: [cpu], batch_sizes: [1], sequence_lengths: [8], threads: 1}\n"
        f"output: {tmp_path / 'out'}\n"
    )
    result = CliRunner().invoke(app, ["run", str(recipe), "--json"])
    found = lines(result.stdout)
    assert found[0]["event"] in ("stage", "result", "progress")
    end = found[-1]
    assert "stage" in [line["event"] for line in found]
    verdict = json.loads(Path(end["report"]).read_text())["verdict"]
    if broken:
        assert isinstance(result.exception, BudgetExceeded)
        assert (end["event"], end["exit_code"], end["type"]) == ("error", 5, "BudgetExceeded")
        assert end["verdict"] == verdict != "passed"
        assert "artifact" not in end
    else:
        assert result.exit_code == 0
        assert (end["event"], end["exit_code"], end["verdict"]) == ("end", 0, verdict)
        assert Path(end["artifact"], "model.onnx").is_file()
