"""What the file of sentence-transformers' first step says is read, or refused by its name.

What is right was computed with sentence-transformers 6.3 on copies of these files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import load_checkpoint
from compressor.pipeline.preflight import check_inputs
from compressor.recipe.recipe import load_recipe

STATES = {"method": "forward", "method_output_name": "last_hidden_state"}


@pytest.fixture
def copy(tiny_encoder_dir: Path, tmp_path: Path) -> Path:
    """Return an encoder whose tokenizer reads 8 tokens, by its own files."""
    folder = Path(shutil.copytree(tiny_encoder_dir, tmp_path / "copy"))
    (folder / "sentence_bert_config.json").unlink()
    place = folder / "tokenizer_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "model_max_length": 8}))
    return folder


@pytest.mark.parametrize(
    ("name", "asked", "read"),
    [
        ("sentence_bert_config.json", 6, 6),
        ("sentence_bert_config.json", 12, 12),  # more than the tokenizer's own files say
        ("sentence_bert_config.json", None, 8),
        ("sentence_roberta_config.json", 6, 6),
        ("sentence_xlm-roberta_config.json", 12, 12),
    ],
)
def test_the_step_says_how_much_is_read_whatever_the_tokenizer_says(
    copy: Path, tmp_path: Path, name: str, asked: int | None, read: int
):
    (copy / name).write_text(json.dumps({"max_seq_length": asked, "do_lower_case": False}))
    model = load_checkpoint(copy)
    assert model.preprocessor.model_max_length == read
    [ids] = model.task.encode(model.preprocessor, ["good " * 40])["input_ids"]
    assert len(ids) == read
    model.save(tmp_path / "saved")
    assert load_checkpoint(tmp_path / "saved").preprocessor.model_max_length == read


def test_no_more_is_read_than_there_are_positions(copy: Path):
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 4096}')
    positions = json.loads((copy / "config.json").read_text())["max_position_embeddings"]
    assert load_checkpoint(copy).preprocessor.model_max_length == positions


def test_a_length_that_the_step_reads_is_no_mistake(copy: Path, tmp_path: Path):
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    rows = [{"text": f"good film {number}"} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "recipe.yaml").write_text(
        "model: {checkpoint: copy}\n"
        "data: {max_length: 12, search: {path: rows.jsonl}}\n"
        "budget: {max_drop: 0.1}\n"
        "passes: []\n"
        "benchmark: {providers: []}\n"
    )
    assert check_inputs(load_recipe(tmp_path / "recipe.yaml")).task == "sentence-embedding"


@pytest.mark.parametrize(
    "content",
    [
        {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"},
        {"modality_config": {"text": STATES, "image": {"method": "other"}}},
        {"processing_kwargs": {"text": {}, "image": {"do_resize": False}}, "unpad_inputs": None},
        {"model_args": {"trust_remote_code": True, "torch_dtype": "bfloat16"}},
        {"tokenizer_args": {"use_fast": True}, "config_kwargs": {}, "query_length": None},
    ],
)
def test_what_changes_no_vector_is_passed_over(copy: Path, content: dict[str, Any]):
    (copy / "sentence_bert_config.json").write_text(json.dumps(content))
    assert load_checkpoint(copy).task.name == "sentence-embedding"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"tokenizer_args": {"model_max_length": 4}}, "tokenizer_args.model_max_length is 4"),
        ({"processor_kwargs": {"padding_side": "left"}}, 'padding_side is "left"'),
        ({"config_args": {"hidden_act": "relu"}}, 'config_args.hidden_act is "relu"'),
        ({"model_kwargs": {"subfolder": "other"}}, 'model_kwargs.subfolder is "other"'),
        ({"transformer_task": "fill-mask"}, 'transformer_task is "fill-mask"'),
        ({"module_output_name": "sentence_embedding"}, "module_output_name is"),
        (
            {"modality_config": {"text": {**STATES, "method_output_name": "pooler_output"}}},
            "modality_config.text is .*pooler_output",
        ),
        ({"processing_kwargs": {"text": {"max_length": 4}}}, r"processing_kwargs.text is .*4"),
        ({"query_length": 4}, "query_length is 4"),
        ({"query_expansion": {"strategy": "fixed"}}, "query_expansion is"),
    ],
)
def test_what_would_change_vectors_is_refused_by_its_name(
    copy: Path, content: dict[str, Any], reason: str
):
    (copy / "sentence_bert_config.json").write_text(json.dumps(content))
    with pytest.raises(EnvironmentMismatch, match=rf"bert_config\.json: .*{reason}.*not followed"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
        ({"module_output_name": "scaled"}, "module_output_name is 'scaled', and only sentence_emb"),
    ],
)
def test_a_step_that_scales_something_else_is_refused(
    copy: Path, content: dict[str, Any], reason: str
):
    modules = json.loads((copy / "modules.json").read_text())
    [scales] = [step["path"] for step in modules if step["type"].endswith("Normalize")]
    (copy / scales).mkdir(exist_ok=True)
    place = copy / scales / "config.json"
    usual = dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")
    place.write_text(json.dumps(usual))
    assert load_checkpoint(copy).task.name == "sentence-embedding"
    place.write_text(json.dumps({**usual, **content}))
    with pytest.raises(EnvironmentMismatch, match=rf"{scales}/config\.json: {reason}"):
        load_checkpoint(copy)
