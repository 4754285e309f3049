"""Recipes whose true drop is known get the verdict they should, and wrong ones would be noticed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from compressor.certificate import certify_paired
from compressor.measurements import Certificate


@pytest.fixture(scope="module")
def planting(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("plant_outcomes")


def test_one_recipe_of_each_kind_gets_the_verdict_it_should(
    planting: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["plant_outcomes.py", "--recipes", "5"])
    assert planting.main() == 0
    printed = capsys.readouterr().out
    rows = printed.splitlines()[1:-2]
    verdicts = {row[:13].strip(): tuple(row.split()[-2:]) for row in rows}
    assert verdicts["far above"] == ("refuted", "5")
    assert verdicts["far below"] == ("certified", "0")
    assert verdicts["too few rows"][0] == "inconclusive"
    assert "5 recipes: 3 should fail" in printed


@pytest.mark.parametrize(("metric", "drop"), [("accuracy", 0.02), ("agreement", 0.04)])
def test_labels_are_planted_so_that_the_pool_loses_what_the_case_says(
    planting: ModuleType, metric: str, drop: float
):
    before = np.tile([0, 1], 500)
    after = before.copy()
    after[:40] = 1 - after[:40]
    pool = planting.Pool(tuple(map(str, range(1000))), before, after)
    planted = planting.plant(pool, planting.Case("", metric, 0.03, 0.01, 0))
    assert planted.drop == pytest.approx(drop, abs=1e-9)
    was_right = before[planted.rows] == planted.labels
    is_right = after[planted.rows] == planted.labels
    assert (was_right & ~is_right).sum() == 30
    assert (~was_right & is_right).sum() == 10


def certificate() -> Certificate:
    right = np.ones(1000, dtype=bool)
    return certify_paired(right, right, max_drop=0.01)


def outcome(planting: ModuleType, true_drop: float, exit_code: int = 0) -> object:
    case = planting.CASES[0]
    return planting.Outcome(case, true_drop, certificate(), exit_code)


# With 5% each, 20 give 5 or more with a chance of 0.0026, and 4 or more with one of 0.016.
@pytest.mark.parametrize(("wrong", "kept"), [(5, False), (4, True)])
def test_too_many_wrong_certificates_are_noticed(planting: ModuleType, wrong: int, kept: bool):
    good = replace(certificate(), verdict="inconclusive")
    found = [outcome(planting, 0.02)] * wrong
    found += [planting.Outcome(planting.CASES[0], 0.02, good, 6)] * (20 - wrong)
    assert planting.summary(found)[1] is kept


def test_an_exit_code_that_does_not_fit_its_verdict_is_noticed(planting: ModuleType):
    allowed = [outcome(planting, 0.001)] * 20
    failing = planting.Outcome(
        planting.CASES[0], 0.02, replace(certificate(), verdict="refuted"), 5
    )
    assert planting.summary([*allowed, failing])[1]
    assert not planting.summary([*allowed, failing, outcome(planting, 0.001, exit_code=5)])[1]
