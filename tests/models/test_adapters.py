"""What a folder with an adapter says is read, and refused where a merge would be another model."""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compressor.errors import EnvironmentMismatch
from compressor.models.adapters import read_adapter
from compressor.models.checkpoint import find_checkpoint

LORA = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "org/base"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    save_file({"base_model.model.x": np.ones(2)}, tmp_path / "adapter_model.safetensors")
    return tmp_path


@pytest.fixture
def with_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))


def write(folder: Path, **changes: object) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({**LORA, **changes}))


def test_without_the_package_the_advice_is_to_install_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentMismatch, match=r"pip install 'compressor\[adapters\]'"):
        find_checkpoint(str(folder))


@pytest.mark.usefixtures("with_package")
def test_what_an_adapter_says_is_read(folder: Path):
    write(folder, revision="v2")
    adapter = read_adapter("mine", folder)
    assert adapter is not None
    assert (adapter.base, adapter.base_revision) == ("org/base", "v2")
    assert adapter.class_name == "AutoModelForSequenceClassification"
    assert adapter.tensors["base_model.model.x"].shape == (2,)


@pytest.mark.usefixtures("with_package")
def test_the_class_of_an_adapter_without_a_task_type_is_named_by_its_mapping(folder: Path):
    write(folder, task_type=None, auto_mapping={"base_model_class": "ViTForImageClassification"})
    adapter = read_adapter("mine", folder)
    assert adapter is not None
    assert adapter.class_name == "ViTForImageClassification"


@pytest.mark.usefixtures("with_package")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING', which cannot be merged"),
        ({"megatron_config": {"x": 1}}, "megatron_config belongs to Megatron"),
        ({"layer_replication": [[0, 2]]}, "layer_replication runs layers more than once"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens switches the adapter on"),
    ],
)
def test_what_a_merge_would_leave_out_is_refused(
    folder: Path, changes: dict[str, object], told: str
):
    write(folder, **changes)
    with pytest.raises(EnvironmentMismatch, match=told):
        read_adapter("mine", folder)


@pytest.mark.usefixtures("with_package")
def test_settings_that_are_no_json_are_refused(folder: Path):
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(EnvironmentMismatch, match="not a readable JSON file"):
        read_adapter("mine", folder)


@pytest.mark.usefixtures("with_package")
def test_an_adapter_that_names_no_base_needs_one(folder: Path):
    write(folder, base_model_name_or_path=None)
    with pytest.raises(EnvironmentMismatch, match=r"set model\.base to the model that the adapter"):
        find_checkpoint(str(folder))


@pytest.mark.usefixtures("with_package")
def test_a_base_that_is_an_adapter_too_is_refused(folder: Path):
    with pytest.raises(EnvironmentMismatch, match="is an adapter too; merge that one first"):
        find_checkpoint(str(folder), base=str(folder))


def test_a_whole_model_needs_no_base(tiny_bert_dir: Path):
    with pytest.raises(EnvironmentMismatch, match=r"is no adapter .*; remove model\.base"):
        find_checkpoint(str(tiny_bert_dir), base="org/base")
