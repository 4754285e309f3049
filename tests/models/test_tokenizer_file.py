"""What transformers makes of tokenizer.json gives the tokens that the file gives, or is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers

from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import load_checkpoint

TEXT = "a good film"
FIRST, SECOND = ({"Sequence": {"id": name, "type_id": kind}} for kind, name in enumerate("AB"))
SEP_ALONE = {
    "type": "TemplateProcessing",
    "single": [FIRST, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [FIRST, SECOND],
    "special_tokens": {"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
}


@pytest.fixture
def copy(tiny_bert_dir: Path, tmp_path: Path) -> Path:
    """Return a BERT whose tokenizer is of BERT's own class."""
    directory = shutil.copytree(tiny_bert_dir, tmp_path / "copy")
    edit(directory / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    return directory


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [{"post_processor": SEP_ALONE}, {"pre_tokenizer": {"type": "WhitespaceSplit"}}],
    ids=["tokens around a text", "where words are split"],
)
@pytest.mark.parametrize("named", [True, False], ids=["class named", "class of the model type"])
def test_a_tokenizer_that_is_not_what_its_file_says_is_refused(
    copy: Path, changes: dict[str, Any], named: bool
):
    load_checkpoint(copy)
    edit(copy / "tokenizer.json", **changes)
    if not named:
        (copy / "tokenizer_config.json").unlink()
    with pytest.raises(EnvironmentMismatch) as caught:
        load_checkpoint(copy)
    said = str(caught.value)
    assert said.startswith(f"{copy / 'tokenizer.json'}: gives ")
    assert "BertTokenizer that transformers makes of it" in said
    assert "set tokenizer_class in tokenizer_config.json to PreTrainedTokenizerFast" in said


def test_the_class_that_is_advised_reads_the_file_as_it_is(copy: Path):
    edit(copy / "tokenizer.json", post_processor=SEP_ALONE)
    edit(copy / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    model = load_checkpoint(copy)
    own = tokenizers.Tokenizer.from_file(str(copy / "tokenizer.json"))
    [ids] = model.task.encode(model.preprocessor, [TEXT])["input_ids"]
    assert ids.tolist() == own.encode(TEXT).ids
    assert (ids == 3).tolist() == [False] * (len(ids) - 1) + [True]


def test_a_type_whose_class_is_taken_whatever_is_named_is_told_so(copy: Path):
    config = transformers.Qwen2Config(
        **{"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0},
    )
    transformers.Qwen2ForSequenceClassification(config).save_pretrained(copy)
    edit(copy / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(EnvironmentMismatch, match="for model type 'qwen2' whatever class"):
        load_checkpoint(copy)


def test_the_tokenizer_of_transformers_saved_over_both_files_loads(copy: Path):
    edit(copy / "tokenizer.json", post_processor=SEP_ALONE)
    transformers.BertTokenizer.from_pretrained(copy).save_pretrained(copy)
    model = load_checkpoint(copy)
    [ids] = model.task.encode(model.preprocessor, [TEXT])["input_ids"]
    assert ids[0] == model.preprocessor.cls_token_id


def lowercase(content: dict[str, Any]) -> None:
    content["normalizer"]["lowercase"] = not content["normalizer"]["lowercase"]


def cut(content: dict[str, Any]) -> None:
    content["truncation"] = {
        **{"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    }


@pytest.mark.parametrize("change", [lowercase, cut])
def test_what_every_release_of_transformers_takes_from_elsewhere_is_no_difference(
    copy: Path, tiny_bert_dir: Path, change: Callable[[dict[str, Any]], None]
):
    content = json.loads((copy / "tokenizer.json").read_text())
    change(content)
    (copy / "tokenizer.json").write_text(json.dumps(content))
    model, plain = load_checkpoint(copy), load_checkpoint(tiny_bert_dir)
    for name, value in plain.task.encode(plain.preprocessor, [TEXT]).items():
        np.testing.assert_array_equal(model.task.encode(model.preprocessor, [TEXT])[name], value)
