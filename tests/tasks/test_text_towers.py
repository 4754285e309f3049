"""Vectors of CLIP's encoder of texts are CLIP's, not the mean over tokens; others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from conftest import TINY

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import load_checkpoint
from compressor.tasks import load_task
from compressor.tasks.pooling import read_pooling

WORDS = ["<pad>", "<s>", "<unk>", "a", "photo", "of", "the", "red", "cat", "dog"]
END = len(WORDS)
SIZES = {**TINY, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1}
TEXTS = ["cat", "a photo of the red cat", "the dog"]


def tokenizer(end: str = "</s>") -> Any:
    found = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {word: place for place, word in enumerate([*WORDS, "</s>"])}, unk_token="<unk>"
        )
    )
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ids = [("<s>", 1), (end, [*WORDS, "</s>"].index(end))]
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"<s> $A {end}", special_tokens=ids
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="<pad>", unk_token="<unk>", model_max_length=16
    )


def save(kind: str, folder: Path, *, end: int = END, **more: Any) -> Any:
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": END + 1, "eos_token_id": end, **more}
    name = "Siglip" if kind.startswith("Siglip") else "CLIP"
    module = getattr(transformers, kind)(getattr(transformers, f"{name}TextConfig")(**sizes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    module.eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return module


def vectors(folder: Path) -> Any:
    model = load_checkpoint(folder, task="sentence-embedding")
    return model.predict(model.task.encode(model.preprocessor, TEXTS))


@pytest.mark.parametrize("end", [END, 2])  # 2 as CLIP's first checkpoints say
@pytest.mark.parametrize(
    ("kind", "output"),
    [("CLIPTextModelWithProjection", "text_embeds"), ("CLIPTextModel", "pooler_output")],
)
def test_vectors_are_those_of_clip_before_and_after_saving(
    kind: str, output: str, end: int, tmp_path: Path
):
    module = save(kind, tmp_path / "model", end=end, projection_dim=24)
    batch = tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = module(**batch)[output].numpy()
    assert find_checkpoint(str(tmp_path / "model")).infer_task() == "sentence-embedding"
    np.testing.assert_allclose(vectors(tmp_path / "model"), expected, atol=1e-5)
    load_checkpoint(tmp_path / "model").save(tmp_path / "saved")
    np.testing.assert_allclose(vectors(tmp_path / "saved"), expected, atol=1e-5)


def test_sentence_transformers_gives_them_too(tmp_path: Path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    save("CLIPTextModelWithProjection", tmp_path / "model", projection_dim=24)
    load_checkpoint(tmp_path / "model").save(tmp_path / "saved")
    found = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(found.encode(TEXTS), vectors(tmp_path / "model"), atol=1e-5)


def test_a_projection_cannot_be_left_out(tmp_path: Path):
    save("CLIPTextModelWithProjection", tmp_path, projection_dim=24)
    with pytest.raises(RecipeError, match=r"is mean, but config\.json of the checkpoint says last"):
        read_pooling(tmp_path, mode="mean")


def test_states_of_tokens_may_be_asked_for_without_a_projection(tmp_path: Path):
    save("CLIPTextModel", tmp_path)
    assert read_pooling(tmp_path, mode="mean").mode == "mean"
    assert read_pooling(tmp_path).mode == "lasttoken"


def test_weights_without_the_projection_are_refused(tmp_path: Path):
    save("CLIPTextModel", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["CLIPTextModelWithProjection"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EnvironmentMismatch, match=r"the weights lack text_projection\.weight"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("end", [END, 2])
def test_a_tokenizer_that_ends_texts_otherwise_is_refused(end: int, tmp_path: Path):
    save("CLIPTextModel", tmp_path, end=end)
    tokenizer("<unk>").save_pretrained(tmp_path)
    with pytest.raises(EnvironmentMismatch, match=f"takes the state at token {END}, by eos_token"):
        load_checkpoint(tmp_path, task="sentence-embedding")


def test_the_encoder_of_siglip_is_refused_unless_the_recipe_says_how_it_pools(tmp_path: Path):
    save("SiglipTextModel", tmp_path)
    with pytest.raises(EnvironmentMismatch, match="'siglip_text_model' makes one vector of a text"):
        load_task("sentence-embedding").how_pooled(tmp_path)
    assert load_task("sentence-embedding", pooling="mean").how_pooled(tmp_path) is not None


def test_a_pair_is_refused_with_how_its_encoder_of_texts_is_saved(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "clip", "text_config": {}}')
    with pytest.raises(EnvironmentMismatch, match=r"pair of encoders.*CLIPTextModelWithProjection"):
        read_pooling(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "siglip", "text_config": {}}')
    with pytest.raises(EnvironmentMismatch, match="'siglip' makes one vector of a text in a way"):
        read_pooling(tmp_path)
