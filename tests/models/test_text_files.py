"""Lengths and padding that cannot be right are told by the files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.loading import load_config
from compressor.models.text_files import check_text_files
from compressor.tasks import load_task


def files_with(tmp_path: Path, tokenizer: dict[str, Any], **config: Any) -> CheckpointFiles:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return CheckpointFiles("model", tmp_path, (), {"model_type": "bert", **config}, {})


@pytest.mark.parametrize(
    ("tokenizer", "positions", "limit"),
    [
        ({"model_max_length": 128}, 512, 128),
        ({"model_max_length": 1e30}, 512, 512),
        ({}, 512, 512),
        ({"model_max_length": 512.0}, None, 512),
        ({}, -1, None),
        ({}, None, None),
    ],
)
def test_the_smaller_limit_of_both_files_is_found(
    tmp_path: Path, tokenizer: dict[str, Any], positions: int | None, limit: int | None
):
    files = files_with(tmp_path, tokenizer, max_position_embeddings=positions)
    assert check_text_files(files, max_length=None, pooling=None) == limit


def test_a_damaged_file_is_left_to_the_loading_of_the_tokenizer(tmp_path: Path):
    files = files_with(tmp_path, {})
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    assert check_text_files(files, max_length=None, pooling=None) is None


@pytest.mark.parametrize(
    ("tokenizer", "config", "message"),
    [
        ({"model_max_length": -5}, {}, "model_max_length is -5; it must be a whole number"),
        ({"model_max_length": 0}, {}, "model_max_length is 0"),
        ({"model_max_length": 12.5}, {}, r"model_max_length is 12\.5"),
        ({"model_max_length": "512"}, {}, 'model_max_length is "512"'),
        ({}, {"max_position_embeddings": 0}, r"config\.json: max_position_embeddings is 0"),
        ({}, {"max_position_embeddings": 1.5}, r"max_position_embeddings is 1\.5"),
        ({"padding_side": "both"}, {}, 'padding_side is "both"; allowed are left and right'),
        ({}, {"model_type": "fnet"}, "takes? no attention mask"),
        ({}, {"model_type": "convbert"}, "convolve over tokens and padding alike, so a prediction"),
        ({}, {"model_type": "yoso"}, "let padding weigh on all tokens in transformers 5"),
        ({}, {"model_type": "nystromformer"}, "convolve over tokens and padding alike"),
        *(
            ({}, {"model_type": kind}, rf"models of type '{kind}' .*, so no ONNX file gives their")
            for kind in ("canine", "funnel", "longformer", "mbart", "mra", "plbart")
        ),
        (
            {"model_max_length": 4096},
            {"model_type": "big_bird"},
            r"block_sparse.*more than 704 tokens.*export\.max_length to 704",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, tokenizer: dict[str, Any], config: dict[str, Any], message: str
):
    files = files_with(tmp_path, tokenizer, **config)
    with pytest.raises(EnvironmentMismatch, match=message):
        check_text_files(files, max_length=None, pooling=None)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nystromformer", "conv_kernel_size": None},
        {"model_type": "funnel", "attention_type": "factorized"},
    ],
)
def test_a_family_is_not_refused_for_what_its_settings_leave_out(
    tmp_path: Path, config: dict[str, Any]
):
    files = files_with(tmp_path, {"model_max_length": 128}, **config)
    assert check_text_files(files, max_length=None, pooling=None) == 128


def test_a_nystromformer_without_convolution_is_refused_by_what_transformers_says(tmp_path: Path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "nystromformer", "conv_kernel_size": null}'
    )
    files = files_with(tmp_path, {}, model_type="nystromformer", conv_kernel_size=None)
    with pytest.raises(EnvironmentMismatch, match=r"cannot read it .*'conv_kernel_size' expected"):
        load_config(files, load_task("text-classification"))


def test_what_a_teacher_gives_may_depend_on_padding(tmp_path: Path):
    files = files_with(tmp_path, {"model_max_length": 128}, model_type="convbert")
    assert check_text_files(files, max_length=None, pooling=None, is_teacher=True) == 128


def test_the_first_token_of_texts_that_are_padded_on_the_left_is_refused(tmp_path: Path):
    files = files_with(tmp_path, {"padding_side": "left"})
    check_text_files(files, max_length=None, pooling="mean")
    with pytest.raises(EnvironmentMismatch, match="padding_side is left, and the vector"):
        check_text_files(files, max_length=None, pooling="cls")


@pytest.mark.parametrize(
    ("max_length", "config"),
    [
        (704, {}),
        (None, {"attention_type": "original_full"}),
        (112, {"block_size": 16, "num_random_blocks": 1}),
    ],
)
def test_attention_in_blocks_is_fine_where_no_text_is_long_enough_for_it(
    tmp_path: Path, max_length: int | None, config: dict[str, Any]
):
    files = files_with(tmp_path, {"model_max_length": 4096}, model_type="big_bird", **config)
    check_text_files(files, max_length=max_length, pooling=None)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("of_class", ["PreTrainedTokenizerFast", "GPT2Tokenizer", "BertTokenizer"])
@pytest.mark.parametrize("named", ["null", "absent", "written", "in the other file", "in its own"])
def test_a_missing_pad_token_is_told_where_transformers_has_none(
    tiny_bert_dir: Path, tmp_path: Path, kind: str, of_class: str, named: str
):
    folder = Path(shutil.copytree(tiny_bert_dir, tmp_path / "copy"))
    place = folder / "tokenizer_config.json"
    settings = {**json.loads(place.read_text()), "tokenizer_class": of_class}
    settings.pop("pad_token", None)
    if named == "null":
        settings["pad_token"] = None
    if named == "written":
        settings["pad_token"] = "[PAD]"
    place.write_text(json.dumps(settings))
    if named == "in the other file":
        (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    if named == "in its own":
        written = Tokenizer.from_file(str(folder / "tokenizer.json"))
        written.enable_padding(pad_token="[PAD]")
        written.save(str(folder / "tokenizer.json"))
    config = {**json.loads((folder / "config.json").read_text()), "model_type": kind}
    (folder / "config.json").write_text(json.dumps(config))
    files = CheckpointFiles("model", folder, (), config, {})
    if transformers.AutoTokenizer.from_pretrained(folder).pad_token is not None:
        check_text_files(files, max_length=None, pooling=None)
        return
    with pytest.raises(EnvironmentMismatch, match=r"tokenizer_config\.json: names no pad_token"):
        check_text_files(files, max_length=None, pooling=None)
