"""A plain encoder of any architecture gives the vectors that its pooling asks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks.pooling import Pooling
from compressor.tasks.sentence_encoder import finished, pool

TEXTS = ["a good film", "bad", "the plot was very quite lovely and the story is dull"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "vocab_size": 40,
    "pad_token_id": 0,
}
ENCODERS = {
    "bert": transformers.BertModel(transformers.BertConfig(**SIZES)),
    "electra": transformers.ElectraModel(transformers.ElectraConfig(**SIZES)),
    "mpnet": transformers.MPNetModel(transformers.MPNetConfig(**SIZES)),
    "roberta": transformers.RobertaModel(transformers.RobertaConfig(**SIZES)),
    # Its plain class has a decoder too, and a sentence encoder is saved without.
    "t5": transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, pad_token_id=0
        )
    ),
    "distilbert": transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=40
        )
    ),
}


def save(module: transformers.PreTrainedModel, directory: Path, words: Path) -> Path:
    """Save a module with the tokenizer that lies in `words`."""
    module.save_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    if module.config.model_type in ("distilbert", "mpnet", "t5"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(directory)
    return directory


def vectors_of(model: TorchModel, texts: list[str] = TEXTS) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, texts))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_architecture_gives_the_mean_of_its_own_states(
    name: str, tmp_path: Path, tiny_bert_dir: Path
):
    module = ENCODERS[name].eval()
    model = load_checkpoint(save(module, tmp_path / "saved", tiny_bert_dir))
    assert model.task.name == "sentence-embedding"
    found = vectors_of(model)
    # One text at a time there is no padding, so the mean is over all there is.
    for text, vector in zip(TEXTS, found, strict=True):
        batch = model.task.encode(model.preprocessor, [text])
        inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
        with torch.no_grad():
            states = module(**inputs).last_hidden_state
        np.testing.assert_allclose(vector, states[0].mean(dim=0).numpy(), atol=1e-5)


def test_of_two_classes_the_one_with_a_state_for_each_token_is_taken(
    tmp_path: Path, tiny_bert_dir: Path
):
    config = transformers.FunnelConfig(
        vocab_size=40, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=24
    )
    module = transformers.FunnelModel(config).eval()
    model = load_checkpoint(save(module, tmp_path, tiny_bert_dir))
    batch = model.task.encode(model.preprocessor, TEXTS[:1])
    with torch.no_grad():
        states = module(**{name: torch.from_numpy(value) for name, value in batch.items()})[0]
    [vector] = vectors_of(model, TEXTS[:1])
    np.testing.assert_allclose(vector, states[0].mean(dim=0).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_what_is_saved_is_a_plain_encoder_with_the_files_beside_it(
    name: str, tmp_path: Path, tiny_bert_dir: Path
):
    model = load_checkpoint(save(ENCODERS[name], tmp_path / "first", tiny_bert_dir))
    model.save(tmp_path / "second")
    plain = type(ENCODERS[name]).from_pretrained(tmp_path / "second")
    assert plain.config.architectures == [type(ENCODERS[name]).__name__]
    again = load_checkpoint(tmp_path / "second")
    np.testing.assert_allclose(vectors_of(again), vectors_of(model), atol=1e-6)
    np.testing.assert_allclose(vectors_of(model.clone()), vectors_of(model), atol=1e-6)


def test_all_files_of_the_source_have_their_meaning_in_the_saved_checkpoint(
    tiny_encoder: TorchModel, tmp_path: Path
):
    tiny_encoder.save(tmp_path / "saved")
    names = {path.relative_to(tmp_path / "saved").as_posix() for path in tmp_path.rglob("*.json")}
    assert names >= {"modules.json", "1_Pooling/config.json", "sentence_bert_config.json"}
    about = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert about == {"prompts": {"query": "q: "}}
    again = load_checkpoint(tmp_path / "saved")
    assert again.preprocessor.model_max_length == 16
    np.testing.assert_allclose(np.linalg.norm(vectors_of(again), axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(vectors_of(again), vectors_of(tiny_encoder), atol=1e-6)


def test_padding_does_not_change_a_vector(tiny_encoder: TorchModel):
    together = vectors_of(tiny_encoder)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vectors_of(tiny_encoder, [text])[0], vector, atol=1e-6)


def test_pooling_by_hand():
    states = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(states, mask, Pooling("mean", False)).tolist() == [[3.0, 4.0]]
    vectors = pool(states, mask, Pooling("mean"))
    [unit] = finished(vectors, Pooling("mean", True), ()).tolist()
    assert unit == pytest.approx([0.6, 0.8])
    assert pool(states, mask, Pooling("cls", False)).tolist() == [[3.0, 0.0]]


def test_a_checkpoint_with_the_files_is_an_encoder_whatever_head_it_was_saved_with(
    tiny_encoder_dir: Path, tiny_encoder: TorchModel, tmp_path: Path
):
    saved = tmp_path / "saved"
    tiny_encoder.save(saved)
    module = transformers.BertForMaskedLM(tiny_encoder.module.config)
    module.bert.load_state_dict(tiny_encoder.module.base_model.state_dict(), strict=False)
    module.save_pretrained(saved)
    assert find_checkpoint(str(saved)).infer_task() == "sentence-embedding"
    np.testing.assert_allclose(
        vectors_of(load_checkpoint(saved)), vectors_of(tiny_encoder), atol=1e-6
    )


def test_a_model_of_images_is_no_sentence_encoder(tiny_vit_dir: Path):
    with pytest.raises(EnvironmentMismatch, match="so it is no plain encoder of texts"):
        load_checkpoint(tiny_vit_dir, task="sentence-embedding")


def test_the_fingerprint_depends_on_the_pooling(tiny_encoder: TorchModel, tmp_path: Path):
    tiny_encoder.save(tmp_path / "saved")
    before = find_checkpoint(str(tmp_path / "saved")).fingerprint()
    (tmp_path / "saved" / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert find_checkpoint(str(tmp_path / "saved")).fingerprint() != before


def test_a_classifier_stays_one(tiny_bert: TorchModel, text_dataset: Dataset):
    batch = tiny_bert.task.encode(tiny_bert.preprocessor, text_dataset.examples[:2])
    assert tiny_bert.predict(batch).shape == (2, 2)
