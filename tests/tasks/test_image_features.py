"""Vectors of images are transformers' own, and judged by their angles and their neighbours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY
from PIL import Image

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import load_checkpoint, load_foreign
from compressor.tasks import Truth, load_task
from compressor.tasks.outputs import Vectors

SIZES = {"image_size": 8, "patch_size": 4}
PROCESSOR = {
    "size": {"height": 8, "width": 8},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}
TEXTS = {**TINY, "vocab_size": 50, "max_position_embeddings": 16, "eos_token_id": 2}
PICTURES = [
    Image.fromarray(np.random.default_rng(row).integers(0, 256, (9 + row, 12, 3)).astype(np.uint8))
    for row in range(5)
]


def clip() -> Any:
    towers = {"text_config": TEXTS, "vision_config": {**TINY, **SIZES}}
    return transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=24))


def siglip() -> Any:
    towers = {"text_config": TEXTS, "vision_config": {**TINY, **SIZES}}
    return transformers.SiglipModel(transformers.SiglipConfig(**towers))


def dinov2(kind: str = "Dinov2", **more: int) -> Any:
    sizes = {name: value for name, value in TINY.items() if name != "intermediate_size"}
    config = getattr(transformers, f"{kind}Config")(**sizes, **SIZES, mlp_ratio=2, **more)
    return getattr(transformers, f"{kind}Model")(config)


def plain(kind: str, **more: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**TINY, **SIZES, **more)
    return getattr(transformers, f"{kind}Model")(config)


def class_token(module: Any, pixels: Any) -> Any:
    return module(**pixels).last_hidden_state[:, 0]


def pooled(module: Any, pixels: Any) -> Any:
    return module(**pixels).pooler_output


def of_pair(module: Any, pixels: Any) -> Any:
    return module.get_image_features(**pixels).pooler_output


def dinov3(**more: Any) -> Any:
    config = transformers.DINOv3ViTConfig(**TINY, **SIZES, num_register_tokens=2, **more)
    return transformers.DINOv3ViTModel(config)


ENCODERS = {
    "dinov2": (dinov2, pooled),
    "registers": (lambda: dinov2("Dinov2WithRegisters", num_register_tokens=2), pooled),
    "dinov3": (dinov3, pooled),
    "dinov3 gated": (lambda: dinov3(use_gated_mlp=True), pooled),
    "vit": (lambda: plain("ViT"), class_token),
    "deit": (lambda: plain("DeiT"), class_token),
    "beit": (lambda: plain("Beit"), pooled),
    "clip": (clip, of_pair),
    "clip tower": (lambda: plain("CLIPVision"), pooled),
    "siglip": (siglip, of_pair),
    "siglip tower": (lambda: plain("SiglipVision"), pooled),
}


def save(module: Any, folder: Path) -> Path:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.eval().save_pretrained(folder)
    transformers.ViTImageProcessorPil(**PROCESSOR).save_pretrained(folder)
    return folder


def vectors(folder: Path, task: str | None = None) -> Any:
    model = load_checkpoint(folder, task=task)
    return model.predict(model.task.encode(model.preprocessor, model.task.given(PICTURES)))


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_are_those_of_transformers_before_and_after_saving(name: str, tmp_path: Path):
    make, read = ENCODERS[name]
    torch.manual_seed(0)
    module = make()
    folder = save(module, tmp_path / "model")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        expected = read(module, processor(PICTURES, return_tensors="pt")).numpy()
    assert find_checkpoint(str(folder)).infer_task() == "image-features"
    assert vectors(folder) == pytest.approx(expected, abs=1e-5)
    load_checkpoint(folder).save(tmp_path / "saved")
    assert vectors(tmp_path / "saved") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["clip", "dinov2"])
@pytest.mark.parametrize("normalize", [False, True])
def test_cut_vectors_are_the_first_numbers_here_and_after_saving(
    name: str, normalize: bool, tmp_path: Path
):
    torch.manual_seed(0)
    folder = save(ENCODERS[name][0](), tmp_path / "model")
    task = load_task("image-features", normalize=normalize)
    model = load_foreign(find_checkpoint(str(folder)), task)
    whole = vectors(folder)[:, :8]
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True) if normalize else whole
    before = model.task.vector_width(model.module.config)
    model.task.cut_vectors(model.module, 8)
    assert (before, model.task.vector_width(model.module.config)) == (whole_width(name), 8)
    images = model.task.encode(model.preprocessor, model.task.given(PICTURES))
    for found in (model, model.clone()):
        assert found.predict(images) == pytest.approx(expected, abs=1e-5)
    model.save(tmp_path / "saved")
    assert vectors(tmp_path / "saved") == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="vectors have 8 numbers, so there is nothing"):
        model.task.cut_vectors(model.module, 8)


def whole_width(name: str) -> int:
    return 24 if name == "clip" else TINY["hidden_size"]


@pytest.mark.parametrize("dimensions", [0, -1, 2.5, "8", True])
def test_a_cut_that_is_none_is_refused(dimensions: Any, tmp_path: Path):
    folder = save(plain("ViT"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["image_features"] = {"mode": "cls", "dimensions": dimensions}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EnvironmentMismatch, match="dimensions of image_features must be a whole"):
        load_checkpoint(folder, task="image-features")


def test_what_is_saved_of_a_pair_is_the_tower_that_transformers_loads(tmp_path: Path):
    torch.manual_seed(0)
    folder = save(clip(), tmp_path / "model")
    load_checkpoint(folder).save(tmp_path / "saved")
    loaded = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "saved")
    assert find_checkpoint(str(tmp_path / "saved")).architectures == (
        "CLIPVisionModelWithProjection",
    )
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        found = loaded(**processor(PICTURES, return_tensors="pt")).image_embeds
    assert found.numpy() == pytest.approx(vectors(folder), abs=1e-5)


def test_the_encoder_of_a_classifier_gives_vectors_where_a_recipe_asks(tmp_path: Path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**TINY, **SIZES)
    module = transformers.ViTForImageClassification(config)
    folder = save(module, tmp_path / "model")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        expected = class_token(module.vit, processor(PICTURES, return_tensors="pt")).numpy()
    assert vectors(folder, "image-features") == pytest.approx(expected, abs=1e-5)


def test_a_pooler_that_the_weights_lack_is_never_drawn(tmp_path: Path):
    torch.manual_seed(0)
    config = transformers.BeitConfig(**TINY, **SIZES, use_mean_pooling=True)
    folder = save(transformers.BeitModel(config, add_pooling_layer=False), tmp_path / "model")
    with pytest.raises(EnvironmentMismatch, match=r"lack .*pooler.layernorm.bias"):
        load_checkpoint(folder)


def test_an_encoder_of_images_gives_no_sentence_embeddings(tmp_path: Path):
    folder = save(dinov2(), tmp_path / "model")
    with pytest.raises(EnvironmentMismatch, match="is no plain encoder of texts"):
        load_checkpoint(folder, task="sentence-embedding")


IMAGES = [np.full((2, 2), shade, np.uint8) for shade in (0, 50, 100, 200)]
BEFORE = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)


def judge(metric: str, after: np.ndarray) -> tuple[float, list[int]]:
    task = load_task("image-features")
    reference = task.score(metric, Vectors(BEFORE), Truth(IMAGES))
    found = task.score(metric, Vectors(after), Truth(IMAGES, reference=reference))
    return found.value, found.outcomes.tolist()


def test_lengths_of_vectors_change_nothing():
    assert judge("image_cosine", 3 * BEFORE) == (pytest.approx(1.0), [1, 0, 3, 2])
    assert judge("neighbour_agreement", 3 * BEFORE) == (1.0, [1, 0, 3, 2])


def test_scores_are_means_over_images():
    after = BEFORE.copy()
    after[3] = [0.8, 0.2]  # now among the first two; its cosine to what it was is 0.26 / (...)
    cosine = float(BEFORE[3] @ after[3] / np.linalg.norm(BEFORE[3]) / np.linalg.norm(after[3]))
    assert judge("image_cosine", after)[0] == pytest.approx((3 + cosine) / 4)
    value, outcomes = judge("neighbour_agreement", after)
    assert outcomes == [1, 0, 3, 1]
    assert value == 0.75  # the last alone has another nearest image


def test_an_image_that_stands_twice_is_not_its_own_neighbour():
    task = load_task("image-features")
    truth = Truth([*IMAGES, IMAGES[0]])
    found = task.score("image_cosine", Vectors(np.vstack([BEFORE, BEFORE[:1]])), truth)
    assert found.outcomes.tolist() == [1, 0, 3, 2, 1]


def test_two_different_images_are_too_few():
    task = load_task("image-features")
    told = task.unscorable("neighbour_agreement", Truth([IMAGES[0], IMAGES[1], IMAGES[0]]))
    assert told is not None
    assert told.startswith("holds 2 different images; at least 3")
