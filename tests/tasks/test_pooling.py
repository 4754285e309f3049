"""What the files of sentence-transformers say is done, or refused by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch, RecipeError
from compressor.models.torch_model import load_checkpoint
from compressor.tasks import load_task
from compressor.tasks.pooling import Pooling, read_pooling, write_pooling

TASK = load_task("sentence-embedding")


@pytest.fixture
def copy(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_encoder_dir, tmp_path / "copy")


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_the_files_say_how_vectors_are_made(tiny_encoder_dir: Path):
    assert read_pooling(tiny_encoder_dir) == Pooling(
        "mean", True, "1_Pooling/config.json", 16, {"prompts": {"query": "q: "}}
    )


def test_without_files_it_is_the_mean_unless_the_recipe_says_otherwise(tmp_path: Path):
    assert read_pooling(tmp_path) == Pooling("mean", False)
    wanted = load_task("sentence-embedding", pooling="cls", normalize=True)
    assert wanted.how_pooled(tmp_path) == Pooling("cls", True)


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "lasttoken"),
        ({"architectures": ["Qwen3ForCausalLM"], "is_causal": False}, "mean"),
        ({"architectures": ["Qwen3Model"]}, "mean"),
        ({"architectures": []}, "mean"),
        ({"architectures": None}, "mean"),
    ],
)
def test_of_a_language_model_it_is_the_last_token_as_in_sentence_transformers(
    tmp_path: Path, config: dict[str, Any], mode: str
):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_pooling(tmp_path) == Pooling(mode, False)
    assert read_pooling(tmp_path, mode="max") == Pooling("max", False)


def test_a_recipe_that_contradicts_the_files_is_told_every_key(tiny_encoder_dir: Path):
    wanted = load_task("sentence-embedding", pooling="cls", normalize=False)
    with pytest.raises(RecipeError) as refused:
        wanted.how_pooled(tiny_encoder_dir)
    keys = [mistake.partition(": ")[0] for mistake in refused.value.mistakes]
    assert keys == ["model.pooling", "model.normalize"]


@pytest.mark.parametrize(
    "pooling", [Pooling("mean", True), Pooling("cls", False), Pooling("cls+max+lasttoken", False)]
)
def test_what_is_written_is_read_again(tmp_path: Path, pooling: Pooling):
    write_pooling(tmp_path, pooling, width=8, max_length=128)
    found = read_pooling(tmp_path)
    assert (found.mode, found.normalize, found.max_length) == (
        pooling.mode,
        pooling.normalize,
        128,
    )


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"pooling_mode_first_tokens": True}, "first_tokens"),
        ({"pooling_mode_mean_tokens": False}, "pools by nothing"),
        ({"pooling_mode": "median"}, "median"),
        ({"pooling_mode": ["mean", "median"]}, "pools by median"),
        ({"pooling_mode": []}, "pools by nothing"),
    ],
)
def test_another_pooling_is_refused_by_its_name(copy: Path, entries: Any, reason: str):
    change(copy / "1_Pooling" / "config.json", **entries)
    with pytest.raises(EnvironmentMismatch, match=reason):
        read_pooling(copy)


def test_the_later_form_of_the_pooling_file_is_read(copy: Path):
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert read_pooling(copy).mode == "cls"


@pytest.mark.parametrize(
    ("entries", "mode"),
    [
        ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": True}, "cls+mean"),
        ({"pooling_mode_lasttoken": True}, "mean+lasttoken"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["lasttoken", "cls"]}, "lasttoken+cls"),
    ],
)
def test_flags_and_names_of_modes_are_read(copy: Path, entries: Any, mode: str):
    change(copy / "1_Pooling" / "config.json", **entries)
    assert read_pooling(copy).mode == mode


def test_prompts_that_are_read_but_do_not_count_are_refused(copy: Path):
    change(copy / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(EnvironmentMismatch, match="include_prompt is false"):
        read_pooling(copy)
    change(copy / "config_sentence_transformers.json", prompts={"query": ""})
    assert read_pooling(copy).mode == "mean"


def test_a_step_that_cannot_be_computed_is_refused_by_its_name(copy: Path):
    modules = json.loads((copy / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.CNN"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EnvironmentMismatch, match="Transformer, Pooling, CNN"):
        read_pooling(copy)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("modules.json", "[", "not a readable JSON file"),
        ("sentence_bert_config.json", "[" * 100_000, "not a readable JSON file"),
        ("modules.json", "{}", "must hold a list"),
        ("modules.json", '[{"idx": 0}]', "without type and path"),
        ("sentence_bert_config.json", '{"max_seq_length": "all"}', "max_seq_length"),
        (
            "config_sentence_transformers.json",
            '{"prompts": {"query": "q: "}, "default_prompt_name": "passage"}',
            "default_prompt_name is 'passage', and prompts has query",
        ),
        ("config_sentence_transformers.json", '{"prompts": ["q: "]}', "prompts must be texts"),
        ("config_sentence_transformers.json", '{"prompts": {"query": 1}}', "prompts must be texts"),
    ],
)
def test_a_file_that_cannot_be_followed_is_named(copy: Path, name: str, content: str, reason: str):
    (copy / name).write_text(content)
    with pytest.raises(EnvironmentMismatch, match=reason) as refused:
        read_pooling(copy)
    assert name in str(refused.value)


def test_a_pooling_file_that_is_missing_or_outside_is_named(copy: Path):
    (copy / "1_Pooling" / "config.json").unlink()
    with pytest.raises(EnvironmentMismatch, match=r"config\.json: not found"):
        read_pooling(copy)
    modules = json.loads((copy / "modules.json").read_text())
    modules[1]["path"] = "../elsewhere"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EnvironmentMismatch, match="outside the checkpoint"):
        read_pooling(copy)


def test_lower_case_before_a_tokenizer_that_lowers_it_itself_changes_nothing(copy: Path):
    change(copy / "sentence_bert_config.json", do_lower_case=True)
    assert load_checkpoint(copy).preprocessor.model_max_length == 16


def test_lower_case_before_a_tokenizer_that_tells_case_apart_is_refused(copy: Path):
    change(copy / "sentence_bert_config.json", do_lower_case=True)
    content = json.loads((copy / "tokenizer.json").read_text())
    content["normalizer"] = None
    content["model"]["vocab"] |= {"The": len(content["model"]["vocab"])}
    (copy / "tokenizer.json").write_text(json.dumps(content))
    change(copy / "config.json", vocab_size=len(content["model"]["vocab"]))
    with pytest.raises(EnvironmentMismatch):
        load_checkpoint(copy)
