"""What is saved loads again to the same logits; what cannot be loaded says why."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.families.layers import find_encoder
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.prune_structured.unit_removal import prune_neurons


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert_dir, tmp_path / "copy")


def logits_of(model: TorchModel, dataset: Dataset) -> np.ndarray:
    return model.predict(model.task.encode(model.preprocessor, dataset.examples[:4]))


def test_a_saved_model_loads_to_the_same_logits_in_another_process(
    tiny_bert: TorchModel, text_dataset: Dataset, tmp_path: Path
):
    tiny_bert.save(tmp_path / "saved")
    script = (
        "import sys; from compressor import load_checkpoint\n"
        "model = load_checkpoint(sys.argv[1])\n"
        "batch = model.task.encode(model.preprocessor, sys.argv[2:])\n"
        "print(model.predict(batch).tolist())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "saved"), *text_dataset.examples[:4]],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = logits_of(tiny_bert, text_dataset)
    assert np.array(eval(result.stdout)) == pytest.approx(expected, abs=1e-6)  # noqa: S307


def test_a_plain_model_is_saved_as_a_plain_checkpoint(tiny_bert: TorchModel, tmp_path: Path):
    tiny_bert.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "structure.json").exists()


def test_a_clone_shares_nothing(tiny_bert: TorchModel, text_dataset: Dataset):
    copy = tiny_bert.clone()
    before = logits_of(tiny_bert, text_dataset)
    with torch.no_grad():
        for parameter in copy.module.parameters():
            parameter.zero_()
    assert logits_of(tiny_bert, text_dataset) == pytest.approx(before)


def test_parameters_are_counted_once_and_zeros_apart(tiny_bert: TorchModel):
    total, nonzero = tiny_bert.parameter_counts()
    with torch.no_grad():
        weight = tiny_bert.module.bert.encoder.layer[0].intermediate.dense.weight  # (64, 32)
        weight.fill_(1.0)
        weight[:, :8] = 0.0
    assert tiny_bert.parameter_counts()[0] == total
    assert tiny_bert.parameter_counts()[1] <= nonzero - 64 * 8 + 1


def test_truncated_weights_are_named(copy: Path):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EnvironmentMismatch, match="may be truncated"):
        load_checkpoint(copy)


def test_weights_of_another_shape_are_refused(copy: Path):
    path = copy / "model.safetensors"
    state = load_file(path)
    state["bert.pooler.dense.weight"] = torch.zeros(5, 32)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match=r"do not fit config\.json"):
        load_checkpoint(copy)


def test_a_missing_head_is_refused(copy: Path):
    path = copy / "model.safetensors"
    state = load_file(path)
    del state["classifier.weight"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match="fine-tuned head"):
        load_checkpoint(copy)


def test_the_wrong_task_for_an_architecture_is_refused(tiny_vit_dir: Path):
    with pytest.raises(EnvironmentMismatch, match="no text-classification model"):
        load_checkpoint(tiny_vit_dir, task="text-classification")


def test_a_missing_tokenizer_is_named(copy: Path):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(EnvironmentMismatch, match=r"its tokenizer cannot be loaded .* none of "):
        load_checkpoint(copy)


def test_calling_the_model_calls_the_module(tiny_bert: TorchModel):
    assert tiny_bert(input_ids=torch.tensor([[2, 5, 3]])).logits.shape == (1, 2)


def test_heads_that_do_not_divide_the_hidden_size_are_named(copy: Path):
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5}))
    with pytest.raises(EnvironmentMismatch, match=r"do not fit config\.json .*heads \(5\)"):
        load_checkpoint(copy)


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta"])
@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_head_with_a_table_of_its_own_keeps_it_whatever_the_config_says(
    tiny_bert_dir: Path, tmp_path: Path, kind: str, is_pruned: bool
):
    own = tmp_path / "own"
    config = transformers.AutoConfig.for_model(
        kind,
        **{"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"intermediate_size": 64, "max_position_embeddings": 66, "pad_token_id": 0},
        **{"initializer_range": 0.3, "embedding_size": 32, "tie_word_embeddings": False},
    )
    torch.manual_seed(0)
    module = transformers.AutoModelForMaskedLM.from_config(config).eval()
    module.save_pretrained(own)
    transformers.AutoTokenizer.from_pretrained(tiny_bert_dir).save_pretrained(own)
    path = own / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    ids = np.array([[2, 5, 9, 7, 3]])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with torch.no_grad():
        wanted = module(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits
    model = load_checkpoint(own, task="masked-language-modeling")
    np.testing.assert_allclose(model.predict(batch), wanted.numpy(), atol=1e-5)
    if is_pruned:
        prune_neurons(find_encoder(model.module), {0: [1, 2, 3]})
    expected = model.predict(batch)
    np.testing.assert_array_equal(model.clone().predict(batch), expected)
    model.save(tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved", task="masked-language-modeling")
    np.testing.assert_array_equal(again.predict(batch), expected)


@pytest.mark.parametrize(
    ("kind", "second"),
    [("bert", "cls.predictions"), ("roberta", "lm_head"), ("albert", "predictions")],
)
def test_a_bias_that_transformers_4_saved_once_for_two_names_is_read_as_both(
    tiny_bert_dir: Path, tmp_path: Path, kind: str, second: str
):
    config = transformers.AutoConfig.for_model(
        kind,
        **{"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
        **{"intermediate_size": 64, "max_position_embeddings": 66, "pad_token_id": 0},
        **{"initializer_range": 0.3, "embedding_size": 32, "tie_word_embeddings": False},
    )
    torch.manual_seed(0)
    module = transformers.AutoModelForMaskedLM.from_config(config).eval()
    bias = torch.randn(40)
    with torch.no_grad():
        for name in (f"{second}.bias", f"{second}.decoder.bias"):
            module.get_parameter(name).copy_(bias)
    module.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_bert_dir).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[f"{second}.decoder.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ids = np.array([[2, 5, 9, 7, 3]])
    with torch.no_grad():
        wanted = module(input_ids=torch.from_numpy(ids)).logits.numpy()
    model = load_checkpoint(tmp_path, task="masked-language-modeling")
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    np.testing.assert_allclose(model.predict(batch), wanted, atol=1e-5)
