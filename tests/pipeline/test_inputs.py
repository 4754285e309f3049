"""Lengths fit every model that reads texts, and what a run reads is known by its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.pipeline.inputs import check_local_checkpoints, fit_lengths, local_inputs
from compressor.recipe import Recipe
from compressor.tasks import NO_LIMIT


def recipe(tmp_path: Path, **changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "model": {"checkpoint": "org/model"},
        "data": {"search": {"path": str(tmp_path / "rows.csv")}},
        "budget": {"max_drop": 0.1},
        "passes": [],
    }
    return Recipe.model_validate({**base, **changes})


@pytest.mark.parametrize(
    ("limits", "lengths"),
    [
        ({"model.checkpoint": 512}, (32, 128)),
        ({"model.checkpoint": 64}, (32, 64)),
        ({"model.checkpoint": 16}, (16,)),
        ({"model.checkpoint": 512, "passes.0.student": 48}, (32, 48)),
        ({"model.checkpoint": 512, "passes.0.teacher": 48}, (32, 128)),
    ],
)
def test_usual_lengths_are_cut_to_what_ships(
    tmp_path: Path, limits: dict[str, int], lengths: tuple[int, ...]
):
    fitted = fit_lengths(recipe(tmp_path), limits)
    assert fitted.benchmark.sequence_lengths == lengths


def test_a_length_that_a_student_or_a_teacher_cannot_read_names_it(tmp_path: Path):
    rows = {"path": str(tmp_path / "rows.csv")}
    wished = recipe(
        tmp_path,
        data={"search": rows, "max_length": 64},
        benchmark={"sequence_lengths": [32, 64]},
    )
    with pytest.raises(RecipeError) as caught:
        fit_lengths(wished, {"model.checkpoint": 512, "passes.0.teacher": 48})
    assert caught.value.mistakes == (
        "data.max_length: 64 tokens are more than passes.0.teacher reads; set 48 or less",
    )
    with pytest.raises(RecipeError) as caught:
        fit_lengths(wished, {"model.checkpoint": 512, "passes.0.student": 48})
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "data.max_length",
        "benchmark.sequence_lengths",
    ]


def test_a_model_without_any_limit_needs_one(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"data\.max_length: neither tokenizer nor config"):
        fit_lengths(recipe(tmp_path), {"model.checkpoint": NO_LIMIT})
    data = {"search": {"path": str(tmp_path / "rows.csv")}, "max_length": 64}
    limits = {"model.checkpoint": NO_LIMIT}
    assert fit_lengths(recipe(tmp_path, data=data), limits).data.max_length == 64


def test_inputs_on_this_machine_have_their_keys(tmp_path: Path, tiny_bert_dir: Path):
    (tmp_path / "images").mkdir()
    wished = recipe(
        tmp_path,
        model={"checkpoint": str(tiny_bert_dir)},
        data={
            "search": {"path": str(tmp_path / "rows.csv")},
            "train": {"hub": str(tmp_path / "images"), "split": "train"},
        },
        passes=[{"kind": "distill", "teacher": "org/large", "student": str(tiny_bert_dir)}],
    )
    assert local_inputs(wished) == {
        "data.train.hub": tmp_path / "images",
        "data.search.path": tmp_path / "rows.csv",
        "model.checkpoint": tiny_bert_dir,
        "passes.0.student": tiny_bert_dir,
    }
    check_local_checkpoints(wished)  # and asks the Hub for nothing


def test_a_student_that_is_not_there_is_named_by_its_key(tmp_path: Path):
    step = {"kind": "distill", "student": str(tmp_path / "nowhere")}
    with pytest.raises(EnvironmentMismatch, match=r"^passes\.0\.student: .*no such directory"):
        check_local_checkpoints(recipe(tmp_path, passes=[step]))
