"""What init writes for a few of the cases runs to exit 0; the long form is the tool itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def checking(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("check_init")


@pytest.mark.parametrize(
    ("case", "passes"),
    [
        (("bert", "single", "labelled", 6, 400, 1500, 900), "prune_structured, quantize_dynamic"),
        (("mpnet", "pair", "unlabelled", 6, 120, 0, 60), "quantize_dynamic"),
        (("vit", "image", "labelled", 6, 90, 0, 0), "quantize_dynamic"),
        (("distilbert", "encoder", "labelled", 6, 200, 0, 0), "quantize_dynamic"),
        (("wav2vec2 (whole)", "sounds", "labelled", 6, 60, 0, 0), "quantize_dynamic"),
        (("electra", "tags", "labelled", 6, 90, 0, 0, "parquet"), "quantize_dynamic"),
    ],
    ids=["texts", "pairs without labels", "images", "vectors", "sounds of one length", "tags"],
)
def test_what_init_writes_runs_to_the_end(
    checking: ModuleType, tmp_path: Path, case: tuple[Any, ...], passes: str
):
    line = checking.check(checking.Case(1, *case), tmp_path)
    assert line.verdict == "ok", line.text
    assert passes in line.detail


def test_a_case_is_the_same_for_the_same_seed(checking: ModuleType):
    assert checking.draw(3, seed=0) == checking.draw(3, seed=0)
    assert checking.draw(3, seed=0) != checking.draw(3, seed=1)


@pytest.mark.parametrize("task", ["ranking", "grades", "sets", "questions", "hidden"])
def test_every_task_learns_something_from_rows(checking: ModuleType, tmp_path: Path, task: str):
    case = checking.Case(1, "bert", task, "labelled", 6, 4, 0, 0)
    draws = np.random.default_rng(0)
    loss = case.subject.loss(case.subject.module(), 4, draws)
    assert np.isfinite(float(loss.detach()))
    path = checking.write_rows(case, tmp_path, "search", 4, draws)
    assert len(path.read_text().splitlines()) == 4


def test_a_crash_is_told_with_its_place(
    checking: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checking, "make_checkpoint", lambda case, folder: 1 / 0)
    line = checking.check(checking.draw(0, seed=0), tmp_path)
    assert line.verdict == "CRASH"
    assert "ZeroDivisionError in test_check_init.py" in line.detail
