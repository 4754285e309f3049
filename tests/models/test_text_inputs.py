"""A tokenizer gives what its model takes; where both cannot fit, loading says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.text_inputs import Positions, positions_of
from compressor.models.torch_model import TorchModel, load_checkpoint, token_limit
from compressor.tasks import NO_LIMIT, load_task

TEXTS = ["a good film", "bad", "the plot was very quite lovely and the story is dull"]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 40,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def save(
    module: transformers.PreTrainedModel, directory: Path, words: Path, **changes: Any
) -> Path:
    """Save a model with the tokenizer that lies in `words`, whose settings are changed."""
    module.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(words).save_pretrained(directory)
    return change(directory, **changes)


def change(directory: Path, **changes: Any) -> Path:
    """Change tokenizer_config.json; None removes a key."""
    place = directory / "tokenizer_config.json"
    settings = {**json.loads(place.read_text()), **changes}
    kept = {name: value for name, value in settings.items() if value is not None}
    place.write_text(json.dumps(kept))
    return directory


def one_by_one(directory: Path, inputs: tuple[str, ...] = ("input_ids",)) -> np.ndarray:
    """Return the logits of each text alone, by transformers alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    found = []
    with torch.no_grad():
        for text in TEXTS:
            encoded = tokenizer(text, return_tensors="pt")
            found.append(model(**{name: encoded[name] for name in inputs}).logits[0].numpy())
    return np.stack(found)


def batched(model: TorchModel) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, TEXTS))


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert_dir, tmp_path / "copy")


def test_a_mask_that_the_tokenizer_leaves_out_is_given(copy: Path):
    change(copy, model_input_names=["input_ids", "token_type_ids"])
    model = load_checkpoint(copy)
    assert batched(model) == pytest.approx(one_by_one(copy), abs=1e-5)
    model.preprocessor.save_pretrained(copy)
    again = transformers.AutoTokenizer.from_pretrained(copy)
    assert again.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]


def test_inputs_that_the_tokenizer_does_not_name_are_those_of_the_model(copy: Path):
    change(copy, model_input_names=["foo"])
    model = load_checkpoint(copy)
    assert model.preprocessor.model_input_names == ["input_ids", "attention_mask"]
    assert batched(model) == pytest.approx(one_by_one(copy), abs=1e-5)


def test_segments_that_a_model_has_no_name_for_are_not_given(tmp_path: Path, tiny_bert_dir: Path):
    config = transformers.DistilBertConfig(
        vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=24, initializer_range=0.3
    )
    module = transformers.DistilBertForSequenceClassification(config)
    model = load_checkpoint(save(module, tmp_path, tiny_bert_dir))
    assert model.preprocessor.model_input_names == ["input_ids", "attention_mask"]
    assert batched(model) == pytest.approx(one_by_one(tmp_path), abs=1e-5)


def test_pairs_are_of_one_segment_where_the_model_knows_one(tmp_path: Path, tiny_bert_dir: Path):
    config = transformers.BertConfig(**SIZES, type_vocab_size=1)
    module = transformers.BertForSequenceClassification(config).eval()
    model = load_checkpoint(save(module, tmp_path, tiny_bert_dir))
    found = model.predict(model.task.encode(model.preprocessor, [("a film", "good")]))
    ids = torch.tensor([[2, 17, 19, 3, 5, 3]])  # [CLS] a film [SEP] good [SEP]
    assert found == pytest.approx(module(ids).logits.detach().numpy(), abs=1e-5)


def test_segments_beyond_their_table_are_refused(copy: Path):
    place = copy / "tokenizer.json"
    content = json.loads(place.read_text())
    content["post_processor"]["pair"][-1]["SpecialToken"]["type_id"] = 2
    place.write_text(json.dumps(content))
    with pytest.raises(EnvironmentMismatch, match=r"gives token type 2, .* table of 2"):
        load_checkpoint(copy)


def test_a_tokenizer_without_padding_is_refused(copy: Path):
    change(copy, pad_token=None)
    with pytest.raises(EnvironmentMismatch, match=r"tokenizer_config\.json: names no pad_token"):
        load_checkpoint(copy)


def test_a_model_without_a_mask_is_refused(tmp_path: Path, tiny_bert_dir: Path):
    sizes = {name: value for name, value in SIZES.items() if name != "num_attention_heads"}
    module = transformers.FNetForSequenceClassification(transformers.FNetConfig(**sizes))
    with pytest.raises(EnvironmentMismatch, match="takes no attention mask"):
        load_checkpoint(save(module, tmp_path, tiny_bert_dir))


@pytest.mark.parametrize("value", [-5, -1, 0, 2, 63.5, "64", True])
def test_a_limit_that_is_no_number_of_tokens_is_refused(copy: Path, value: Any):
    change(copy, model_max_length=value)
    with pytest.raises(EnvironmentMismatch, match=r"model_max_length is .*3 or more"):
        token_limit(find_checkpoint(str(copy)), load_task("text-classification"))


@pytest.mark.parametrize(("value", "limit"), [(1e30, 64), (None, 64), (32.0, 32), (2000, 64)])
def test_the_smaller_of_both_limits_holds(copy: Path, value: Any, limit: int):
    change(copy, model_max_length=value)
    assert token_limit(find_checkpoint(str(copy)), load_task("text-classification")) == limit


def test_texts_for_a_model_without_a_limit_are_not_cut(tmp_path: Path, tiny_bert_dir: Path):
    config = transformers.XLNetConfig(
        d_model=16, n_layer=1, n_head=2, d_inner=24, vocab_size=40, pad_token_id=0
    )
    assert config.max_position_embeddings == -1
    module = transformers.XLNetForSequenceClassification(config)
    model = load_checkpoint(save(module, tmp_path, tiny_bert_dir, model_max_length=None))
    assert model.preprocessor.model_max_length >= NO_LIMIT
    assert model.task.encode(model.preprocessor, ["good " * 500])["input_ids"].shape == (1, 502)


@pytest.mark.parametrize(
    ("module", "limit"),
    [
        (transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=40)), 40),
        (
            transformers.RobertaModel(
                transformers.RobertaConfig(
                    **{**SIZES, "pad_token_id": 5}, max_position_embeddings=40
                )
            ),
            34,  # positions 6 to 39
        ),
        (
            transformers.MPNetModel(transformers.MPNetConfig(**SIZES, max_position_embeddings=40)),
            38,  # from 2 on, whatever id the padding has
        ),
        (
            transformers.OPTModel(
                transformers.OPTConfig(
                    hidden_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    ffn_dim=24,
                    vocab_size=40,
                    max_position_embeddings=40,
                    word_embed_proj_dim=16,
                )
            ),
            40,  # of 42 rows
        ),
    ],
    ids=["bert", "roberta", "mpnet", "opt"],
)
def test_the_table_of_positions_says_how_many_tokens_have_one(module: Any, limit: int):
    found = positions_of(module)
    assert found is not None
    assert found.limit == limit


def test_relative_positions_have_no_table():
    sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24, "vocab_size": 40}
    assert positions_of(transformers.XLNetModel(transformers.XLNetConfig(**sizes))) is None
    assert Positions(rows=514, after_padding=1).limit == 512


def test_a_model_that_cannot_be_built_is_named_before_its_weights_are_read(copy: Path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5}))
    with pytest.raises(EnvironmentMismatch, match=r"config\.json: transformers can build no Bert"):
        token_limit(find_checkpoint(str(copy)), load_task("text-classification"))


def test_a_cut_and_padding_inside_the_tokenizer_file_are_not_used_and_not_kept(
    copy: Path, tmp_path: Path
):
    place = copy / "tokenizer.json"
    padding = {
        "strategy": {"Fixed": 48},
        "direction": "Right",
        "pad_to_multiple_of": 8,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    cut = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    content = {**json.loads(place.read_text()), "padding": padding, "truncation": cut}
    place.write_text(json.dumps(content))
    model = load_checkpoint(copy)
    assert model.task.encode(model.preprocessor, TEXTS)["input_ids"].shape == (3, 13)
    model.save(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert (written["padding"], written["truncation"]) == (None, None)
    again = load_checkpoint(tmp_path / "saved").preprocessor
    assert (again.padding_side, again.truncation_side) == ("right", "left")
