"""`compressor.run` as it is called from Python: a dict, a notebook's cell, and a stopped run."""

from __future__ import annotations

import asyncio
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import compressor
from compressor.errors import RecipeError
from compressor.progress import Silent


class Lines(Silent):
    """Keeps what is announced; stops, as Ctrl-C does, before the step `until`."""

    def __init__(self, until: str | None = None) -> None:
        self.until = until
        self.stages: list[str] = []
        self.results: list[str] = []

    def __len__(self) -> int:
        return 0  # what counts as empty is no less of a display

    def stage(self, title: str) -> None:
        self.stages.append(title)
        if self.until is not None and title.startswith(self.until):
            raise KeyboardInterrupt

    def result(self, text: str) -> None:
        self.results.append(text)


@pytest.fixture(scope="module")
def stopped(bert_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of a dict that was stopped when the artifact was due."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(KeyboardInterrupt):
        compressor.run(bert_recipe, output=output, device="cpu", progress=Lines("artifact"))
    return output


def test_a_stopped_run_of_a_dict_leaves_a_report_and_steps_to_resume_from(stopped: Path):
    assert json.loads((stopped / "report.json").read_text())["verdict"] == "stopped"
    assert len(list((stopped / "steps").glob("*/step.json"))) == 6


@pytest.fixture(scope="module")
def resumed(bert_recipe: dict[str, Any], stopped: Path) -> Lines:
    """Return what the resumed run says, called from a running event loop in another thread."""
    lines = Lines()

    async def cell() -> compressor.RunReport:
        return compressor.run(bert_recipe, output=stopped, device="cpu", progress=lines)

    with ThreadPoolExecutor(1) as thread:
        report = thread.submit(asyncio.run, cell()).result()
    assert report.verdict == "passed"
    return lines


def test_a_resumed_run_says_how_much_is_stored_before_it_begins(resumed: Lines):
    assert resumed.stages[0] == "plan: export > benchmark"
    # Of the 12 steps, five of the baseline, the checkpoint, the export and its parity are stored.
    # The last two are the baseline's own, under another name.
    assert "(resumes, " in resumed.results[3]


def test_a_run_leaves_signal_handlers_alone(bert_recipe: dict[str, Any], stopped: Path):
    def mine(*_: object) -> None:
        """Stand for the handler that a process installed before it calls."""

    before = signal.signal(signal.SIGINT, mine)
    try:
        compressor.run(bert_recipe, output=stopped, device="cpu", progress=False)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_mistakes_of_a_dict_are_those_of_a_file(bert_recipe: dict[str, Any], tmp_path: Path):
    with pytest.raises(RecipeError, match=r"^budget\.max_drop: must be"):
        compressor.run({**bert_recipe, "budget": {"max_drop": -1}}, output=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"--set budget\.max_drop=2: must be less than 1"):
        compressor.run(bert_recipe, overrides=["budget.max_drop=2"], output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
