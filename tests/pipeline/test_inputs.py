"""Lengths fit every model that reads texts, and what a run reads is known by its keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.pipeline.inputs import (
    check_local_checkpoints,
    check_text_inputs,
    fit_lengths,
    limited_by,
    local_inputs,
)
from compressor.recipe.recipe import Recipe
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


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ({"model.checkpoint": 512, "passes.0.teacher": 48}, "model.checkpoint"),
        ({"model.checkpoint": 512, "passes.0.student": 48}, "passes.0.student"),
        ({"model.checkpoint": 512, "passes.0.student": 512}, "model.checkpoint"),
    ],
)
def test_the_model_that_ships_and_reads_least_says_how_much(
    tmp_path: Path, limits: dict[str, int], key: str
):
    assert limited_by(recipe(tmp_path), limits) == key


@pytest.mark.parametrize("limit", [NO_LIMIT, 8193])
def test_a_model_without_a_limit_that_can_be_checked_needs_one(tmp_path: Path, limit: int):
    with pytest.raises(RecipeError, match=r"export\.max_length: .*set how many the artifact"):
        fit_lengths(recipe(tmp_path), {"model.checkpoint": limit})
    fitted = fit_lengths(recipe(tmp_path, export={"max_length": 64}), {"model.checkpoint": limit})
    assert fitted.export.max_length == 64


def test_the_artifact_reads_what_the_checkpoint_does_however_short_the_measured_texts(
    tmp_path: Path,
):
    data = {"search": {"path": str(tmp_path / "rows.csv")}, "max_length": 32}
    fitted = fit_lengths(
        recipe(tmp_path, data=data), {"model.checkpoint": 512, "passes.0.student": 256}
    )
    assert (fitted.data.max_length, fitted.export.max_length) == (32, 256)
    asked = recipe(tmp_path, data=data, export={"max_length": 48})
    assert fit_lengths(asked, {"model.checkpoint": 512}).export.max_length == 48


def test_lengths_beyond_what_the_artifact_is_to_read_are_refused(tmp_path: Path):
    wished = recipe(tmp_path, export={"max_length": 64}, benchmark={"sequence_lengths": [32, 128]})
    with pytest.raises(RecipeError) as caught:
        fit_lengths(wished, {"model.checkpoint": 512})
    assert caught.value.mistakes == (
        "benchmark.sequence_lengths: 128 tokens are more than the artifact (export.max_length) "
        "reads; set 64 or less",
    )
    with pytest.raises(RecipeError, match=r"export\.max_length: 64 tokens are more than model"):
        fit_lengths(recipe(tmp_path, export={"max_length": 64}), {"model.checkpoint": 48})


def test_validate_tells_lengths_and_padding_that_cannot_be_right(
    tmp_path: Path, tiny_encoder_dir: Path
):
    copy = shutil.copytree(tiny_encoder_dir, tmp_path / "encoder")
    model = {"checkpoint": str(copy)}
    check_text_inputs(recipe(tmp_path, model=model))
    # There are 64 positions, of which its sentence_bert_config.json reads 16.
    with pytest.raises(RecipeError, match=r"export\.max_length: 17 tokens .* set 16 or less"):
        check_text_inputs(recipe(tmp_path, model=model, export={"max_length": 17}))
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True}))
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    place = copy / "tokenizer_config.json"
    place.write_text(json.dumps({**settings, "padding_side": "left"}))
    with pytest.raises(EnvironmentMismatch, match=r"^model\.checkpoint: .*padding_side is left"):
        check_text_inputs(recipe(tmp_path, model=model))
    place.write_text(json.dumps({**settings, "model_max_length": -5}))
    with pytest.raises(EnvironmentMismatch, match="model_max_length is -5"):
        check_text_inputs(recipe(tmp_path, model=model))


def test_validate_tells_what_is_wrong_with_the_pooling_of_the_model(
    tmp_path: Path, tiny_encoder_dir: Path
):
    shutil.copytree(tiny_encoder_dir, tmp_path / "model")
    model = {"checkpoint": str(tmp_path / "model"), "pooling": "cls"}
    with pytest.raises(RecipeError, match=r"model\.pooling: is cls, but 1_Pooling/config\.json"):
        check_text_inputs(recipe(tmp_path, model=model))
    (tmp_path / "model" / "modules.json").write_text("[")
    with pytest.raises(
        EnvironmentMismatch, match=r"^model\.checkpoint: .*modules\.json: not a rea"
    ):
        check_text_inputs(recipe(tmp_path, model=model))


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


def test_an_encoder_without_a_head_is_refused_as_a_classifier(
    tmp_path: Path, tiny_encoder_dir: Path
):
    model = {"checkpoint": str(tiny_encoder_dir), "task": "text-classification"}
    with pytest.raises(EnvironmentMismatch, match=r"^model\.checkpoint: .* fine-tuned first"):
        check_local_checkpoints(recipe(tmp_path, model=model))


def test_a_student_that_is_not_there_is_named_by_its_key(tmp_path: Path):
    step = {"kind": "distill", "student": str(tmp_path / "nowhere")}
    with pytest.raises(EnvironmentMismatch, match=r"^passes\.0\.student: .*no such directory"):
        check_local_checkpoints(recipe(tmp_path, passes=[step]))
