"""A checkpoint that gives a row several predictions is refused with what is odd about it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, ParityError, RecipeError
from compressor.measurements import LengthRecord
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import TorchModel, load_model
from compressor.pipeline.same_prediction import read_exported, require_one_prediction
from compressor.tasks import Batch, load_task

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
}
GPT2: dict[str, Any] = {
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "vocab_size": 40,
    "initializer_range": 0.3,
    "num_labels": 2,
}
XLNET: dict[str, Any] = {
    "d_model": 16,
    "n_layer": 1,
    "n_head": 2,
    "d_inner": 24,
    "vocab_size": 40,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
Look = Callable[..., LengthRecord | None]


@pytest.fixture
def look(tmp_path: Path, tiny_bert_dir: Path, text_dataset: Dataset) -> Look:
    """Return what saves a model with a tokenizer of such settings, and looks at it."""

    def look_at_it(
        make: Any,
        config: Any,
        max_length: int = 64,
        task: str = "text-classification",
        **words: Any,
    ) -> LengthRecord | None:
        torch.manual_seed(0)
        make(config).save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(tiny_bert_dir).save_pretrained(tmp_path)
        place = tmp_path / "tokenizer_config.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), **words}))
        files = find_checkpoint(str(tmp_path))
        model = load_model(files, load_task(task))
        return require_one_prediction(model, files, {"search": text_dataset}, 64, max_length)[0]

    return look_at_it


def test_positions_that_padding_shifts_are_refused(look: Look):
    make, config = transformers.BertForSequenceClassification, transformers.BertConfig(**SIZES)
    with pytest.raises(EnvironmentMismatch, match="padding_side is left, and most models need"):
        look(make, config, padding_side="left")


def test_vectors_of_texts_that_padding_shifts_are_refused(look: Look):
    config = transformers.BertConfig(**SIZES)
    with pytest.raises(EnvironmentMismatch, match="padding_side is left"):
        look(transformers.BertModel, config, task="sentence-embedding", padding_side="left")


def test_relative_positions_may_be_padded_on_the_left(look: Look, text_dataset: Dataset):
    config = transformers.XLNetConfig(**XLNET)
    longest = max(len(text.split()) for text in text_dataset.examples) + 2
    found = look(transformers.XLNetForSequenceClassification, config, padding_side="left")
    assert found == LengthRecord(64, 64, 64, longest, 48, 0)


def test_a_last_token_that_is_padding_is_refused(look: Look):
    config = transformers.XLNetConfig(**XLNET)
    with pytest.raises(EnvironmentMismatch, match="padding_side is right, and XLNet needs left"):
        look(transformers.XLNetForSequenceClassification, config)


def test_padding_that_the_model_takes_for_text_is_refused(look: Look):
    config = transformers.GPT2Config(**GPT2, pad_token_id=4)
    with pytest.raises(EnvironmentMismatch, match=r"pads with id 0, and config.json says .* 4"):
        look(transformers.GPT2ForSequenceClassification, config)


def test_a_model_that_cannot_read_a_batch_is_refused(look: Look):
    config = transformers.GPT2Config(**GPT2, pad_token_id=None)
    with pytest.raises(EnvironmentMismatch, match=r"cannot read its first rows .*no padding token"):
        look(transformers.GPT2ForSequenceClassification, config)


def test_a_convolution_over_padding_is_refused(look: Look):
    config = transformers.ConvBertConfig(**SIZES, embedding_size=16)
    with pytest.raises(EnvironmentMismatch, match="in a batch of 4 padded to 64 tokens differ"):
        look(transformers.ConvBertForSequenceClassification, config)


def test_attention_that_changes_with_what_was_read_is_refused(look: Look):
    config = transformers.BigBirdConfig(
        **{**SIZES, "max_position_embeddings": 256}, block_size=16, num_random_blocks=1
    )
    with pytest.raises(EnvironmentMismatch, match="a row's outputs"):
        look(
            transformers.BigBirdForSequenceClassification,
            config,
            max_length=256,
            model_max_length=256,
        )


@pytest.mark.parametrize("pad", [0, 1])
def test_positions_that_begin_behind_the_padding_are_read_up_to_the_last(look: Look, pad: int):
    sizes = {**SIZES, "pad_token_id": pad, "max_position_embeddings": 64 + pad + 1}
    config = transformers.RobertaConfig(**sizes, type_vocab_size=1)
    found = look(transformers.RobertaForSequenceClassification, config)
    assert found is not None
    assert found.artifact == 64


def test_images_have_no_lengths(tiny_vit: TorchModel, tiny_vit_dir: Path, image_dataset: Dataset):
    files = find_checkpoint(str(tiny_vit_dir))
    found, _ = require_one_prediction(tiny_vit, files, {"search": image_dataset}, None, None)
    assert found is None


def test_the_untouched_model_gives_an_export_what_it_is_compared_with(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset
):
    files = find_checkpoint(str(tiny_bert_dir))
    _, known = require_one_prediction(tiny_bert, files, {"search": text_dataset}, 64, 64)
    anew = read_exported(tiny_bert, text_dataset, 64)
    assert [probe.rows for probe in known.probes] == [probe.rows for probe in anew.probes]
    for one, other in zip(known.outputs, anew.outputs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_pass_after_which_rows_depend_on_their_batch_fails_the_comparison(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    class Blind(TorchModel):
        def predict(self, batch: Batch) -> np.ndarray:
            return super().predict({**batch, "attention_mask": np.ones_like(batch["input_ids"])})

    blind = Blind(tiny_bert.module, tiny_bert.preprocessor, tiny_bert.task)
    with pytest.raises(ParityError, match="the passes before the export are the cause"):
        read_exported(blind, text_dataset, 64)


def test_a_length_that_leaves_no_room_for_a_text_is_refused(
    tiny_bert: TorchModel, tiny_bert_dir: Path, text_dataset: Dataset
):
    files = find_checkpoint(str(tiny_bert_dir))
    cut = dataclasses.replace(tiny_bert, task=dataclasses.replace(tiny_bert.task, max_length=2))
    with pytest.raises(RecipeError, match=r"data\.max_length: of 2 tokens, 2 are special"):
        require_one_prediction(cut, files, {"search": text_dataset}, 64, 64)
    with pytest.raises(RecipeError, match=r"export\.max_length: of 2 tokens.* set 3 or more"):
        require_one_prediction(tiny_bert, files, {"search": text_dataset}, 64, 2)
