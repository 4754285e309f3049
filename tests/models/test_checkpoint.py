"""A checkpoint is refused before torch is loaded when it is missing, unsafe or broken."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import find_checkpoint


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert_dir, tmp_path / "copy")


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_labels_and_task_are_read_from_the_config(tiny_bert_dir: Path):
    files = find_checkpoint(str(tiny_bert_dir))
    assert files.labels == ("negative", "positive")
    assert files.infer_task() == "text-classification"


def test_the_task_of_an_image_checkpoint_is_inferred(tiny_vit_dir: Path):
    assert find_checkpoint(str(tiny_vit_dir)).infer_task() == "image-classification"


def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="no such directory"):
        find_checkpoint(str(tmp_path / "absent"))


@pytest.mark.parametrize("name", ["./absent", "../absent", "absent-", "org/no--model"])
def test_a_name_that_the_hub_does_not_allow_is_a_directory_that_does_not_exist(name: str):
    with pytest.raises(EnvironmentMismatch, match=r"no such directory; .* such as org/name"):
        find_checkpoint(name)


def test_a_hub_id_that_cannot_be_fetched_says_what_to_check(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentMismatch, match="could not be fetched from the Hub"):
        find_checkpoint("nobody/no-such-model")


def test_pickled_weights_are_refused(copy: Path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(EnvironmentMismatch, match="only pickled weights"):
        find_checkpoint(str(copy))


def test_missing_weights_are_named(copy: Path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"model\.safetensors not found"):
        find_checkpoint(str(copy))


def test_a_checkpoint_with_code_of_its_own_is_refused(copy: Path):
    edit_config(copy, auto_map={"AutoModel": "modeling.Custom"})
    with pytest.raises(EnvironmentMismatch, match=r"code of its own.* 'bert' .* remove auto_map"):
        find_checkpoint(str(copy))


@pytest.mark.parametrize("named", [{}, None])
def test_a_checkpoint_that_names_no_code_has_none(copy: Path, named: object):
    edit_config(copy, auto_map=named)
    assert find_checkpoint(str(copy)).infer_task() == "text-classification"


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8"])
def test_a_checkpoint_that_is_quantized_already_is_refused(copy: Path, method: str):
    edit_config(copy, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(
        EnvironmentMismatch, match=rf"quantized already .*, by {method}\), .* from$"
    ):
        find_checkpoint(str(copy))


def test_a_broken_config_names_the_file(copy: Path):
    (copy / "config.json").write_text('{"model_type": ')
    with pytest.raises(EnvironmentMismatch, match=r"config\.json: not a readable JSON"):
        find_checkpoint(str(copy))


def test_a_headless_checkpoint_is_for_sentence_embeddings(copy: Path):
    edit_config(copy, architectures=["BertModel"])
    assert find_checkpoint(str(copy)).infer_task() == "sentence-embedding"


def test_an_encoder_alone_is_no_classifier(tiny_encoder_dir: Path, copy: Path):
    with pytest.raises(EnvironmentMismatch, match="BertModel has no head, and there is none"):
        find_checkpoint(str(tiny_encoder_dir)).require_head("text-classification")
    edit_config(copy, architectures=["BertModel"])  # and yet the weights have a classifier's
    find_checkpoint(str(copy)).require_head("text-classification")


def test_a_head_of_another_kind_needs_the_task_in_the_recipe(copy: Path):
    edit_config(copy, architectures=["BertForNextSentencePrediction"])
    with pytest.raises(EnvironmentMismatch, match=r"set model\.task"):
        find_checkpoint(str(copy)).infer_task()


def test_shards_outside_the_checkpoint_are_refused(copy: Path):
    index = {"metadata": {}, "weight_map": {"x": "../../etc/passwd"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EnvironmentMismatch, match="outside the checkpoint"):
        find_checkpoint(str(copy))


def test_an_index_that_transformers_cannot_read_is_told_of(copy: Path):
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    index = {"weight_map": {"classifier.bias": "other.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EnvironmentMismatch, match=r"has no 'metadata'.*add \"metadata\": {} to it"):
        find_checkpoint(str(copy))


def test_labels_with_a_gap_are_refused(copy: Path):
    edit_config(copy, id2label={"0": "a", "2": "c"})
    with pytest.raises(EnvironmentMismatch, match="no entry for class"):
        _ = find_checkpoint(str(copy)).labels


def test_a_local_checkpoint_has_no_revision(tiny_bert_dir: Path):
    with pytest.raises(EnvironmentMismatch, match="has no revision"):
        find_checkpoint(str(tiny_bert_dir), revision="v1")


def test_the_hash_changes_with_the_weights(copy: Path):
    before = find_checkpoint(str(copy)).sha256()
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert find_checkpoint(str(copy)).sha256() != before


@pytest.fixture
def odd_copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert_dir, tmp_path / "copy"))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt", "chat.jinja"]
)
def test_a_file_of_a_checkpoint_that_is_a_pipe_is_refused_without_being_opened(
    odd_copy: Path, name: str
):
    (odd_copy / name).unlink(missing_ok=True)
    os.mkfifo(odd_copy / name)
    with pytest.raises(EnvironmentMismatch, match=f"{name} is a named pipe, and reading it"):
        find_checkpoint(str(odd_copy))


def test_a_tokenizer_that_is_a_link_to_a_device_is_refused(odd_copy: Path):
    (odd_copy / "tokenizer.json").unlink()
    (odd_copy / "tokenizer.json").symlink_to("/dev/zero")
    with pytest.raises(EnvironmentMismatch, match=r"tokenizer\.json is a device"):
        find_checkpoint(str(odd_copy))


def test_a_config_that_may_not_be_read_is_named(odd_copy: Path, monkeypatch: pytest.MonkeyPatch):
    opened = os.open

    def refuse(path: Any, flags: int, *more: Any) -> int:
        if str(path).endswith("config.json"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)  # root may open every file
    with pytest.raises(
        EnvironmentMismatch,
        match=r"config\.json: cannot be opened \(permission.*let this user read",
    ):
        find_checkpoint(str(odd_copy))


def test_a_config_of_many_gigabytes_is_not_read(odd_copy: Path):
    os.truncate(odd_copy / "config.json", 15 << 30)  # a hole, which takes no room on disk
    with pytest.raises(EnvironmentMismatch, match=r"config\.json: holds 16106127360 bytes"):
        find_checkpoint(str(odd_copy))


def test_a_home_that_nobody_has_is_named():
    with pytest.raises(EnvironmentMismatch, match="~nobody-here/x: cannot expand '~'"):
        find_checkpoint("~nobody-here/x")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "pipe", "loop"])
def test_a_checkpoint_that_is_no_directory_is_named(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(EnvironmentMismatch, match="; a checkpoint is a directory"):
        find_checkpoint(str(tmp_path / name))


def test_the_size_is_that_of_the_weight_files_alone(tiny_bert_dir: Path, tmp_path: Path):
    model = transformers.BertForSequenceClassification.from_pretrained(
        tiny_bert_dir, dtype=torch.bfloat16
    )
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    sharded = {path.name: path.stat().st_size for path in tmp_path.glob("model-*.safetensors")}
    (tmp_path / "optimizer.pt").write_bytes(bytes(10_000))
    assert len(sharded) > 1
    assert find_checkpoint(str(tmp_path)).bytes_on_disk() == sum(sharded.values())


def test_two_sets_of_weights_are_refused(copy: Path):
    index = {"metadata": {}, "weight_map": {"classifier.bias": "other.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EnvironmentMismatch, match="two sets of weights"):
        find_checkpoint(str(copy))


@pytest.mark.parametrize("beside", ["model.safetensors", "model.safetensors.index.json"])
def test_a_shard_of_another_save_is_refused(copy: Path, beside: str):
    if beside.endswith("json"):
        shard = copy / "model-00001-of-00001.safetensors"
        (copy / "model.safetensors").rename(shard)
        with safe_open(shard, framework="np") as content:
            places = dict.fromkeys(content.keys(), shard.name)
        (copy / beside).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    find_checkpoint(str(copy))
    save_file({"old": torch.ones(1)}, copy / "model-00003-of-00003.safetensors")
    with pytest.raises(
        EnvironmentMismatch,
        match=f"holds model-00003-of-00003.safetensors beside {beside}, which is no part of it",
    ):
        find_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("model-00001-of-00001.safetensors", "shards are read by model.safetensors.index.json"),
        ("model.fp16.safetensors", "rename the file of the model's weights to model.safetensors"),
    ],
)
def test_weights_by_another_name_are_named(copy: Path, file: str, advice: str):
    (copy / "model.safetensors").rename(copy / file)
    with pytest.raises(EnvironmentMismatch, match=f"which holds {file}; {advice}"):
        find_checkpoint(str(copy))


def test_an_index_that_does_not_fit_its_shards_names_the_keys(copy: Path):
    (copy / "model.safetensors").rename(copy / "other.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"classifier.bias": "other.safetensors", "x": "other.safetensors"},
    }
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EnvironmentMismatch, match="'x' of the index not where it says; 'bert"):
        find_checkpoint(str(copy))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_refused_whatever_is_installed(copy: Path, name: str):
    (copy / name).write_text("{}")
    with pytest.raises(EnvironmentMismatch, match="merge_and_unload"):
        find_checkpoint(str(copy))


def test_a_folder_with_an_adapter_alone_says_so(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(EnvironmentMismatch, match="holds an adapter"):
        find_checkpoint(str(tmp_path))


def test_the_old_layout_of_sentence_transformers_names_the_folder(copy: Path, tmp_path: Path):
    old = tmp_path / "old"
    shutil.copytree(copy, old / "0_Transformer")
    (old / "modules.json").write_text("[]")
    with pytest.raises(EnvironmentMismatch, match="with the encoder in 0_Transformer; move"):
        find_checkpoint(str(old))


def test_what_is_no_single_transformer_is_refused_by_its_steps(copy: Path, tmp_path: Path):
    router = tmp_path / "router"
    shutil.copytree(copy, router / "query_0_Transformer")
    step = {"path": "", "type": "sentence_transformers.sentence_transformer.modules.router.Router"}
    (router / "modules.json").write_text(json.dumps([step]))
    with pytest.raises(EnvironmentMismatch, match="are Router, and only what begins"):
        find_checkpoint(str(router))


@pytest.mark.parametrize(
    ("model_type", "architecture", "about"),
    [
        ("wav2vec2", "Wav2Vec2ForCTC", "Wav2Vec2ForCTC transcribes speech"),
        ("sew", "SEWForSequenceClassification", "'sew' reads sound"),
    ],
    ids=["a head for no task", "a head that is called as that for texts"],
)
def test_a_checkpoint_of_sound_is_told_by_its_type(
    copy: Path, model_type: str, architecture: str, about: str
):
    edit_config(copy, model_type=model_type, architectures=[architecture])
    with pytest.raises(EnvironmentMismatch, match=f"{about}.* of type audio-"):
        find_checkpoint(str(copy)).infer_task()


def test_float8_weights_are_refused(copy: Path):
    weights = load_file(copy / "model.safetensors")
    weights["classifier.weight"] = weights["classifier.weight"].to(torch.float8_e4m3fn)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentMismatch, match=r"'classifier\.weight' is of type F8_E4M3"):
        find_checkpoint(str(copy))
