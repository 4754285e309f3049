"""The nearest text to an image is the one that transformers finds; all else is refused early."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from conftest import TINY
from pydantic import ValidationError
from tasks.test_image_features import PICTURES, SIZES, save

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.settings import ModelSettings
from compressor.models.text_tower import text_vectors
from compressor.models.torch_model import load_checkpoint
from compressor.tasks import ImageTexts, Truth, load_task
from compressor.tasks.image_features import ImageFeatures
from compressor.tasks.outputs import Vectors

LETTERS = [chr(ord("a") + place) for place in range(26)]
PLAIN = ["a cat", "a dog", "the sea at night"]


def tokenizer() -> Any:
    pieces = ["<|startoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[])


def fitted(folder: Path, texts: ImageTexts) -> ImageFeatures:
    task = load_task("image-features", zero_shot=texts).fitted_to(folder)
    task = task.with_text_vectors(text_vectors(folder, task.texts_beside()))
    assert isinstance(task, ImageFeatures)
    return task


def read(folder: Path, texts: ImageTexts) -> Any:
    task = fitted(folder, texts)
    assert task.zero_shot is not None
    return task.zero_shot.vectors


@pytest.fixture(scope="module", params=["CLIP", "Siglip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    words = tokenizer()
    texts = {
        **TINY,
        "vocab_size": len(words),
        "max_position_embeddings": 24,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = getattr(transformers, f"{request.param}Config")(
        text_config=texts, vision_config={**TINY, **SIZES}
    )
    module = getattr(transformers, f"{request.param}Model")(config)
    folder = save(module, tmp_path_factory.mktemp("pair") / "model")
    words.save_pretrained(folder)
    return folder


def test_the_nearest_text_is_that_of_transformers(pair: Path):
    task = fitted(pair, ImageTexts.of(PLAIN))
    assert task.zero_shot is not None
    model = load_checkpoint(pair)
    vectors = model.predict(task.encode(model.preprocessor, task.given(PICTURES)))
    whole = transformers.AutoModel.from_pretrained(pair)
    texts = tokenizer()(PLAIN, padding="max_length", max_length=24, return_tensors="pt")
    pixels = transformers.AutoImageProcessor.from_pretrained(pair, backend="pil")
    with torch.no_grad():
        found = whole(**texts, **pixels(PICTURES, return_tensors="pt"))
    assert task.zero_shot.nearest(vectors).tolist() == found.logits_per_image.argmax(1).tolist()
    expected = found.text_embeds.numpy()
    assert task.zero_shot.vectors == pytest.approx(expected, abs=1e-5)


def test_several_texts_for_one_name_are_their_mean(pair: Path):
    alone = read(pair, ImageTexts.of(PLAIN))
    both = read(pair, ImageTexts.of({"animal": PLAIN[:2], "sea": PLAIN[2:]}))
    mean = alone[:2].mean(axis=0)
    assert both == pytest.approx(np.stack([mean / np.linalg.norm(mean), alone[2]]), abs=1e-5)


def test_images_that_keep_their_text_are_counted():
    directions = np.eye(2, dtype=np.float32)
    texts = ImageTexts(("right", "up"), (("right",), ("up",)), directions)
    task = ImageFeatures(zero_shot=texts)
    images = [np.full((2, 2), shade, np.uint8) for shade in (0, 50, 100, 200)]
    before = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.2, 0.9]], np.float32)
    after = np.array([[5, 1], [0.4, 0.6], [0, 1], [0, 1]], np.float32)
    reference = task.score("zero_shot_agreement", Vectors(before), Truth(images))
    assert reference.value == 1.0
    truth = Truth(images, reference=reference)
    found = task.score("zero_shot_agreement", Vectors(after), truth)
    assert (found.value, found.shares.tolist()) == (0.75, [1, 0, 1, 1])  # type: ignore[union-attr]
    # Vectors that were cut are compared with what is left of the texts' as well.
    cut = task.score("zero_shot_agreement", Vectors(before[:, :1]), truth)
    assert cut.value == 0.5
    [guess] = task.guesses(reference, truth, ())
    assert guess.score.value == 0.5


def test_stored_steps_depend_on_the_texts_and_their_vectors(pair: Path):
    plain = load_task("image-features")
    assert "zero_shot" not in plain.facts()
    tasks = [fitted(pair, ImageTexts.of(texts)) for texts in (PLAIN, PLAIN[::-1])]
    first, second = (json.dumps(task.facts()) for task in tasks)
    assert first != second


def test_a_metric_of_texts_needs_some():
    truth = Truth([np.full((2, 2), shade, np.uint8) for shade in range(5)])
    told = load_task("image-features").unscorable("zero_shot_agreement", truth)
    assert told is not None
    assert "list them as model.zero_shot" in told


def test_what_cannot_be_read_is_refused(pair: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match=r"model\.zero_shot: 'a a a a .* has 32 tokens.*24"):
        read(pair, ImageTexts.of([*PLAIN, "a " * 30]))

    load_checkpoint(pair).save(tmp_path / "tower")
    with pytest.raises(RecipeError, match=r"model\.zero_shot: .*an encoder of images alone"):
        read(tmp_path / "tower", ImageTexts.of(PLAIN))

    lacking = shutil.copytree(pair, tmp_path / "lacking")
    weights = safetensors.numpy.load_file(lacking / "model.safetensors")
    kept = {key: value for key, value in weights.items() if ".final_layer_norm." not in key}
    safetensors.numpy.save_file(kept, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match=r"lack text_model\.final_layer_norm\.bias"):
        read(lacking, ImageTexts.of(PLAIN))

    bare = shutil.copytree(pair, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    with pytest.raises(EnvironmentMismatch, match="its encoder of texts cannot be loaded"):
        read(bare, ImageTexts.of(PLAIN))

    with pytest.raises(RecipeError, match=r"model\.zero_shot: text-classification gives no"):
        load_task("text-classification", zero_shot=ImageTexts.of(PLAIN))


@pytest.mark.parametrize("given", [["a"], ["a", "a"], {"a": "b"}, {"a": [], "b": "c"}, "a", [1, 2]])
def test_texts_that_say_nothing_are_refused(given: object):
    with pytest.raises(ValidationError):
        ModelSettings.model_validate({"checkpoint": "x", "zero_shot": given})
