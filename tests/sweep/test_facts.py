"""Sweeps are the same where all that their trials read is, whatever it is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressor.recipe.recipe import load_recipe
from compressor.sweep.facts import facts_of
from compressor.sweep.settings import load_sweep


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


def facts(folder: Path, search: dict[str, str], column: str = "image") -> dict[str, Any]:
    """Return what a sweep over a recipe with this search split is compared by."""
    recipe = {
        "model": {"checkpoint": str(folder / "model")},
        "data": {"image": column, "label": "label", "search": search},
        "budget": {"max_drop": 0.1},
        "passes": [{"kind": "prune_magnitude", "sparsity": 0.5}],
    }
    sweep = {
        "recipe": "recipe.yaml",
        "space": {"passes.0.sparsity": {"choices": [0.2, 0.4]}},
        "objectives": {"bytes": "minimize"},
        "sampler": "grid",
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "sweep.yaml").write_text(json.dumps(sweep))
    return facts_of(load_sweep(folder / "sweep.yaml"), load_recipe(folder / "recipe.yaml"))


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before if after[key] != before[key]]


def test_another_picture_of_the_same_name_and_size_makes_another_sweep(tmp_path: Path):
    picture(tmp_path / "pictures" / "cat" / "a.bmp", 10)
    picture(tmp_path / "pictures" / "dog" / "b.bmp", 20)
    before = facts(tmp_path, {"images": str(tmp_path / "pictures")})
    picture(tmp_path / "pictures" / "dog" / "b.bmp", 30)
    after = facts(tmp_path, {"images": str(tmp_path / "pictures")})
    assert differing(before, after) == ["content of data.search.images"]


def test_what_systems_leave_in_a_folder_makes_no_other_sweep(tmp_path: Path):
    picture(tmp_path / "pictures" / "cat" / "a.bmp", 10)
    before = facts(tmp_path, {"images": str(tmp_path / "pictures")})
    (tmp_path / "pictures" / "cat" / "Thumbs.db").write_text("x")
    assert facts(tmp_path, {"images": str(tmp_path / "pictures")}) == before


@pytest.mark.parametrize("column", ["image", "photo"])
def test_pictures_that_rows_name_are_compared_too(tmp_path: Path, column: str):
    picture(tmp_path / "a.bmp", 10)
    (tmp_path / "rows.csv").write_text(f"{column},label\na.bmp,cat\n")
    before = facts(tmp_path, {"path": str(tmp_path / "rows.csv")}, column)
    picture(tmp_path / "a.bmp", 20)
    after = facts(tmp_path, {"path": str(tmp_path / "rows.csv")}, column)
    assert differing(before, after) == ["content of files that data.search.path names"]


def test_settings_of_how_a_vector_is_pooled_belong_to_a_checkpoint(tmp_path: Path):
    pooling = tmp_path / "model" / "1_Pooling" / "config.json"
    pooling.parent.mkdir(parents=True)
    pooling.write_text('{"pooling_mode_mean_tokens": true}')
    picture(tmp_path / "pictures" / "a.bmp", 10)
    before = facts(tmp_path, {"images": str(tmp_path / "pictures")})
    pooling.write_text('{"pooling_mode_cls_token": true}')
    after = facts(tmp_path, {"images": str(tmp_path / "pictures")})
    assert differing(before, after) == ["content of model.checkpoint"]
