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


def test_every_model_type_of_a_task_is_a_case_where_there_is_a_small_one(checking: ModuleType):
    found = [case.family for case in checking.every(["single", "image"], None)]
    assert {"bert", "xlnet", "opt", "swin", "regnet"} <= set(found)
    assert not checking.NOT_TINY & set(found)
    assert [case.task for case in checking.every(["single", "hidden"], ["fnet"])] == [
        "single",
        "hidden",
    ]


def test_a_small_configuration_has_small_sizes_by_the_names_of_its_type(
    load_script: Callable[[str], ModuleType],
):
    configs = load_script("tiny_configs")
    opt, flaubert = configs.tiny_config("opt"), configs.tiny_config("flaubert", num_labels=3)
    assert (opt.hidden_size, opt.ffn_dim, opt.num_attention_heads) == (32, 64, 4)
    assert (flaubert.emb_dim, flaubert.n_layers, flaubert.num_labels) == (32, 2, 3)


def test_a_head_is_balanced_by_what_its_rows_do_not_share(checking: ModuleType):
    case = checking.Case(1, "distilbert", "single", "labelled", 6, 4, 0, 0)
    module, draws = case.subject.module().eval(), np.random.default_rng(0)
    checking.balance(module, case.subject, draws)
    module.config.problem_type = None
    seen: list[Any] = []
    module.classifier.register_forward_hook(lambda *given: seen.append(given[2].detach()))
    case.subject.loss(module, 64, draws)
    first = (seen[0][:, 0] > seen[0][:, 1]).float().mean()
    assert 0.2 < float(first) < 0.8


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
    monkeypatch.setattr(checking, "make_checkpoint", lambda case, folder, steps: 1 / 0)
    line = checking.check(checking.draw(0, seed=0), tmp_path)
    assert line.verdict == "CRASH"
    assert "ZeroDivisionError in test_check_init.py" in line.detail
