"""How vectors of images are made follows from config.json, and from the recipe where it may."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.tasks.feature_vector import FeatureVector
from compressor.tasks.image_vectors import read_vector, reads_images, tower_of

TOWER = {"hidden_size": 8, "patch_size": 4}


def checkpoint(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "mode", "first_patch"),
    [
        ({"model_type": "vit"}, "cls", 1),
        ({"model_type": "deit"}, "cls", 2),
        ({"model_type": "dinov2"}, "cls", 1),
        ({"model_type": "dinov2_with_registers", "num_register_tokens": 3}, "cls", 4),
        ({"model_type": "dinov3_vit", "num_register_tokens": 4}, "cls", 5),
        ({"model_type": "dinov3_vit"}, "cls", 1),
        ({"model_type": "beit"}, "pooler", 1),
        ({"model_type": "clip", "vision_config": TOWER}, "projection", 1),
        ({"model_type": "clip_vision_model"}, "pooler", 1),
        (
            {"model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"]},
            "projection",
            1,
        ),
        ({"model_type": "siglip", "vision_config": TOWER}, "pooler", 0),
        (
            {"model_type": "siglip", "vision_config": {**TOWER, "vision_use_head": False}},
            "patch_mean",
            0,
        ),
    ],
)
def test_each_family_has_its_own_vectors(
    tmp_path: Path, config: dict[str, Any], mode: str, first_patch: int
):
    found = read_vector(checkpoint(tmp_path, **config))
    assert (found.mode, found.first_patch, found.normalize) == (mode, first_patch, False)


def test_a_recipe_chooses_where_the_encoder_has_no_layers_for_it(tmp_path: Path):
    folder = checkpoint(tmp_path, model_type="dinov2_with_registers")
    found = read_vector(folder, mode="mean", normalize=True)
    assert found == FeatureVector("patch_mean", normalize=True, first_patch=5)


@pytest.mark.parametrize(
    ("config", "mode", "words"),
    [
        ({"model_type": "clip", "vision_config": TOWER}, "mean", "by layers of its own; remove it"),
        ({"model_type": "vit"}, "lasttoken", "images have no lasttoken; give one of cls, mean"),
    ],
)
def test_what_an_encoder_cannot_give_is_refused(
    tmp_path: Path, config: dict[str, Any], mode: str, words: str
):
    with pytest.raises(RecipeError, match=words):
        read_vector(checkpoint(tmp_path, **config), mode=mode)


def test_an_encoder_whose_vectors_nobody_knows_is_refused(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="'swin' makes one vector of an image is not"):
        read_vector(checkpoint(tmp_path, model_type="swin", patch_size=4))


def test_what_was_saved_is_read_again_and_not_contradicted(tmp_path: Path):
    stored = FeatureVector("patch_mean", normalize=True, first_patch=5).to_dict()
    folder = checkpoint(tmp_path, model_type="vit", image_features=stored)
    found = read_vector(folder)
    assert (found.mode, found.normalize, found.first_patch) == ("patch_mean", True, 5)
    assert found.source == "config.json"
    with pytest.raises(RecipeError) as caught:
        read_vector(folder, mode="cls", normalize=False)
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "model.pooling",
        "model.normalize",
    ]


@pytest.mark.parametrize(
    "stored", [{"mode": "max"}, {"mode": "cls", "first_patch": -1}, {"mode": "cls", "scale": 2}, {}]
)
def test_a_damaged_entry_is_refused(tmp_path: Path, stored: dict[str, Any]):
    folder = checkpoint(tmp_path, model_type="vit", image_features=stored)
    with pytest.raises(EnvironmentMismatch, match="image_features"):
        read_vector(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "siglip", "vision_config": {}}, True),
        ({"model_type": "swin", "image_size": 224}, True),
        ({"model_type": "vilt", "image_size": 384, "vocab_size": 30522}, False),
        ({"model_type": "bert", "vocab_size": 30522}, False),
    ],
)
def test_encoders_of_images_are_told_by_their_configuration(config: dict[str, Any], expected: bool):
    assert reads_images(config) is expected


def test_the_tower_of_a_pair_is_read_as_transformers_reads_it():
    config = {
        "model_type": "clip",
        "hidden_size": 1,
        "vision_config": {"hidden_size": 8},
        "vision_config_dict": {"hidden_size": 16},
    }
    assert tower_of(config) == {"model_type": "clip_vision_model", "hidden_size": 16}
