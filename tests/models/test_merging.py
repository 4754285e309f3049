"""A merged adapter is its base plus the products that it holds; what is lacking is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import load_checkpoint

peft = pytest.importorskip("peft")
# What peft asks of a model is called otherwise in transformers 5.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
QUERY = "bert.encoder.layer.1.attention.self.query"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(base: Path, folder: Path, *, labels: int = 3, **settings: Any) -> Path:
    """Write a LoRA adapter of a classifier with a new head, whose products are not zero."""
    torch.manual_seed(1)
    module = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=labels, ignore_mismatched_sizes=True
    )
    config = peft.LoraConfig(
        r=4, lora_alpha=6, task_type="SEQ_CLS", target_modules=["query", "dense"], **settings
    )
    model = peft.get_peft_model(module, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def test_a_merged_weight_is_that_of_the_base_and_the_scaled_product(
    tiny_bert_dir: Path, tmp_path: Path
):
    folder = make(tiny_bert_dir, tmp_path / "adapter")
    found = find_checkpoint(str(folder))
    merged, own = load_file(found.weights[0]), load_file(folder / "adapter_model.safetensors")
    product = (
        own[f"base_model.model.{QUERY}.lora_B.weight"]
        @ (own[f"base_model.model.{QUERY}.lora_A.weight"])
    )
    before = load_file(tiny_bert_dir / "model.safetensors")
    expected = before[f"{QUERY}.weight"] + 6 / 4 * product
    torch.testing.assert_close(merged[f"{QUERY}.weight"], expected, atol=1e-6, rtol=0)
    assert torch.equal(merged["classifier.weight"], own["base_model.model.classifier.weight"])
    assert torch.equal(merged[f"{QUERY}.bias"], before[f"{QUERY}.bias"])
    assert (found.base, len(found.labels)) == (str(tiny_bert_dir), 3)


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"use_rslora": True}, {"bias": "lora_only"}]
)
def test_a_merged_model_computes_what_the_adapter_computed(
    tiny_bert_dir: Path, tmp_path: Path, settings: dict[str, Any]
):
    folder = make(tiny_bert_dir, tmp_path / "adapter", **settings)
    module = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_bert_dir, num_labels=3, ignore_mismatched_sizes=True
    )
    adapted = peft.PeftModel.from_pretrained(module, folder).eval()
    merged = load_checkpoint(folder)
    ids = torch.randint(5, 30, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(
            merged.module(ids).logits, adapted(ids).logits, atol=1e-5, rtol=0
        )


def test_names_of_labels_beside_the_adapter_are_taken(tiny_bert_dir: Path, tmp_path: Path):
    folder = make(tiny_bert_dir, tmp_path / "adapter")
    names = {"0": "a", "1": "b", "2": "c"}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "id2label": names}))
    assert find_checkpoint(str(folder)).labels == ("a", "b", "c")


def test_the_adapters_tokenizer_goes_before_that_of_the_base(tiny_bert_dir: Path, tmp_path: Path):
    folder = make(tiny_bert_dir, tmp_path / "adapter")
    assert (find_checkpoint(str(folder)).directory / "tokenizer.json").is_file()
    for path in tiny_bert_dir.glob("tokenizer*"):
        shutil.copy(path, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 17}))
    assert load_checkpoint(folder).preprocessor.model_max_length == 17


def test_what_was_merged_is_kept_until_one_of_the_two_changes(
    tiny_bert_dir: Path, tmp_path: Path, cache: Path
):
    base = shutil.copytree(tiny_bert_dir, tmp_path / "base")
    folder = make(base, tmp_path / "adapter")
    first = find_checkpoint(str(folder))
    state = first.weights[0].stat().st_mtime_ns
    assert find_checkpoint(str(folder)).weights[0].stat().st_mtime_ns == state
    weights = load_file(base / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, base / "model.safetensors")
    other = find_checkpoint(str(folder)).directory
    assert sorted((cache / "merged").iterdir()) == sorted([first.directory, other])


def test_what_was_merged_is_removed_a_month_after_its_last_use(
    tiny_bert_dir: Path, tmp_path: Path, cache: Path
):
    month = time.time() - 31 * 24 * 60 * 60
    adapter = make(tiny_bert_dir, tmp_path / "adapter")
    left = cache / "merged" / "left"
    used = find_checkpoint(str(adapter)).directory
    for folder in (left, used):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (month, month))
    assert find_checkpoint(str(adapter)).directory == used
    other = find_checkpoint(str(make(tiny_bert_dir, tmp_path / "other", use_rslora=True))).directory
    assert sorted((cache / "merged").iterdir()) == sorted([used, other])


def test_a_base_that_is_given_goes_before_the_one_that_is_named(
    tiny_bert_dir: Path, tmp_path: Path
):
    folder = make(tiny_bert_dir, tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "elsewhere")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(EnvironmentMismatch, match=r"base model cannot be read: .* set model\.base"):
        find_checkpoint(str(folder))
    assert find_checkpoint(str(folder), base=str(tiny_bert_dir)).base == str(tiny_bert_dir)


def test_a_head_that_neither_holds_is_refused(tiny_bert_dir: Path, tmp_path: Path):
    base = shutil.copytree(tiny_bert_dir, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    folder = make(base, tmp_path / "adapter")
    own = load_file(folder / "adapter_model.safetensors")
    rest = {name: value for name, value in own.items() if "classifier" not in name}
    save_file(rest, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match=r"holds 'classifier\.bias', .*modules_to_save"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda own: own.pop(f"base_model.model.{QUERY}.lora_A.weight"), "the adapter lacks"),
        (
            lambda own: own.update({"base_model.model.bert.other.lora_A.weight": torch.ones(2, 2)}),
            "for which the base has no place",
        ),
    ],
)
def test_weights_that_do_not_fit_the_base_are_named(
    tiny_bert_dir: Path, tmp_path: Path, change: Any, told: str
):
    folder = make(tiny_bert_dir, tmp_path / "adapter")
    own = load_file(folder / "adapter_model.safetensors")
    change(own)
    save_file(own, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match=told):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig", "IA3Config"])
def test_other_kinds_of_adapters_are_merged(tiny_bert_dir: Path, tmp_path: Path, kind: str):
    module = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bert_dir)
    settings: dict[str, Any] = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    settings.update({"feedforward_modules": []} if kind == "IA3Config" else {"r": 4})
    model = peft.get_peft_model(module, getattr(peft, kind)(**settings))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "classifier" not in name:
            torch.nn.init.normal_(parameter, mean=0.3, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.randint(5, 30, (2, 9))
    merged = load_checkpoint(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(
            merged.module(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=0
        )
