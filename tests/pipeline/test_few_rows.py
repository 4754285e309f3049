"""Runs on a handful of rows: what can be done is done and said, what cannot is told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import RecipeError
from compressor.pipeline.run import run
from compressor.recipe.recipe import Recipe


def recipe_of(base: dict[str, Any], train: Path, *passes: dict[str, Any]) -> Recipe:
    data = {**base["data"], "train": {"path": str(train)}}
    return Recipe.model_validate({**base, "data": data, "passes": list(passes)})


def write_rows(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(["text,label", *(f"{text},1" for text in texts)]) + "\n")
    return path


def test_a_run_on_ten_short_rows_prunes_and_says_how(bert_recipe: dict[str, Any], tmp_path: Path):
    texts = ("good", "bad", "a film", "fine", "dull", "it is", "funny", "poor", "story", "great")
    train = write_rows(tmp_path / "train.csv", *texts)
    step = {"kind": "prune_structured", "method": "reconstruction", "ratio": 0.3}
    report = run(recipe_of(bert_recipe, train, step), output=tmp_path / "out", device="cpu")
    assert report.verdict == "passed"
    [record] = json.loads((tmp_path / "out" / "report.json").read_text())["passes"]
    recorded = record["facts"]["reconstruction"]
    assert (recorded["rows"], recorded["rows_of_train"]) == (10, 8)  # a fifth of 10 was cut
    assert recorded["method"] == "least squares, each ridge chosen on rows left out"
    assert recorded["reason"] in record["notes"]


def test_one_text_for_a_vocabulary_ends_a_run_before_the_baseline(
    bert_recipe: dict[str, Any], tmp_path: Path
):
    train = write_rows(tmp_path / "train.csv", "good")
    wished = recipe_of(bert_recipe, train, {"kind": "trim_vocabulary"})
    with pytest.raises(RecipeError, match="has 1 text to count, and it takes two") as caught:
        run(wished, output=tmp_path / "out", device="cpu")
    assert caught.value.report is not None
    assert caught.value.report.baseline is None
