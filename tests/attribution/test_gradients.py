"""Integrated gradients add up to what the explained number rises by, and are refused early."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, word_piece_tokenizer

from compressor.attribution.gradients import (
    _by_piece,
    integrate,
    require_captum,
    require_gradients,
)
from compressor.attribution.occlusion import Reader, ask
from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks import load_task
from compressor.tasks.hiding import Piece
from compressor.tasks.token_classification import TokenClassification


def asked(model: TorchModel, example: Any) -> Any:
    [found] = ask(Reader(model, model.preprocessor), model.task, [example])
    return found


@pytest.mark.parametrize("example", ["a very good film", ("good story", "bad")])
def test_attributions_are_complete(tiny_bert: TorchModel, example: Any):
    pytest.importorskip("captum")
    found = integrate(tiny_bert, tiny_bert.task, asked(tiny_bert, example), "mask token", steps=200)
    assert abs(found.rise) > 1e-3
    # Special tokens are the same at both ends of the way, and get nothing.
    assert found.values.sum() == pytest.approx(found.rise, abs=0.01 * abs(found.rise) + 1e-4)
    assert found.values.sum() - found.rise == pytest.approx(found.error, abs=1e-4)


def test_vectors_are_compared_with_their_own_whole(tiny_encoder: TorchModel):
    pytest.importorskip("captum")
    question = asked(tiny_encoder, "a very good film")
    found = integrate(tiny_encoder, tiny_encoder.task, question, "mask token", steps=200)
    assert found.rise > 0  # from some cosine to 1
    assert found.values.sum() == pytest.approx(found.rise, abs=0.01 * found.rise + 1e-4)


def test_a_linear_model_has_its_weights_as_attributions(tmp_path: Any):
    pytest.importorskip("captum")
    import transformers

    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(**TINY, vocab_size=len(tokenizer), max_position_embeddings=64)
    config.num_labels = 1
    config.problem_type = "regression"
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    table = model.module.get_input_embeddings()

    class Linear(torch.nn.Module):
        """Adds up the first number of every word."""

        config = model.module.config
        get_input_embeddings = staticmethod(lambda: table)

        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            from transformers.modeling_outputs import SequenceClassifierOutput

            total = table(input_ids)[..., 0].sum(dim=1, keepdim=True)
            return SequenceClassifierOutput(logits=total)

    linear = TorchModel(Linear(), tokenizer, model.task)
    linear.module.add_module("table", table)
    found = integrate(linear, model.task, asked(linear, "good film"), "mask token", steps=3)
    weights = table.weight[:, 0].detach().double().numpy()
    ids = tokenizer.convert_tokens_to_ids(["good", "film"])
    assert found.values == pytest.approx(weights[ids] - weights[tokenizer.mask_token_id], abs=1e-6)


def test_a_token_is_shared_out_by_its_characters():
    read = load_task("text-classification").read_text(word_piece_tokenizer(), "lovely film")
    pieces = [Piece(0, 0, 2), Piece(0, 2, 6), Piece(0, 7, 11)]
    found = _by_piece(read, pieces, np.array([9.0, 3.0, 5.0, 9.0]))
    assert found == pytest.approx([1.0, 2.0, 5.0])


def test_without_captum_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("compressor.attribution.gradients.find_spec", lambda name: None)
    with pytest.raises(EnvironmentMismatch, match="extra 'explain', or take --method occlusion"):
        require_captum()


def test_tasks_and_tokenizers_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match="not for token-classification"):
        require_gradients(TokenClassification(), "mask token")
    with pytest.raises(RecipeError, match="not for image-classification"):
        require_gradients(load_task("image-classification"), "mean colour")
    with pytest.raises(RecipeError, match="the tokenizer has neither"):
        require_gradients(load_task("text-classification"), "removal")
