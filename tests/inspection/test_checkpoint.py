from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import TINY, word_piece_tokenizer
from rich.console import Console

import compressor.inspection
from compressor.errors import EnvironmentMismatch
from compressor.inspection.checkpoint import inspect_checkpoint
from compressor.inspection.facts import to_dict
from compressor.inspection.terminal import render_checkpoint
from compressor.measurements import EmbeddingRecord
from compressor.models.families.layers import find_encoder
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes.prune_structured.unit_removal import prune_heads

DOCUMENT = Path(compressor.inspection.__file__).parent / "schema.md"


def test_parts_layers_and_flops_of_a_bert_are_those_of_its_shape(tiny_bert_dir: Path):
    facts = inspect_checkpoint(str(tiny_bert_dir), timing=False)
    total = sum(value.numel() for value in load_checkpoint(tiny_bert_dir).module.parameters())
    assert facts.parameters == total == sum(part.parameters for part in facts.components.values())
    assert sum(part.share for part in facts.components.values()) == pytest.approx(1.0)
    # Width 32, neurons 64, two layers, 64 tokens; two FLOPs for each multiply-add.
    projections, scores = 4 * 32 * 32 * 64, 2 * 64 * 64 * 32
    assert facts.sequence_length == 64
    assert facts.components["attention"].flops == 2 * 2 * (projections + scores)
    assert facts.components["feed_forward"].flops == 2 * 2 * (2 * 32 * 64 * 64)
    assert facts.components["other"].flops == 2 * (32 * 32 + 32 * 2)  # pooler and classifier
    assert facts.flops == sum(part.flops for part in facts.components.values())
    first, second = facts.layers
    assert (first.heads, first.neurons, second.layer) == (4, 64, 1)
    assert first.flops == 2 * (projections + scores + 2 * 32 * 64 * 64)
    assert facts.tokenizer.type == "WordPiece"
    assert facts.time is None


def test_a_pruned_checkpoint_shows_the_heads_that_are_left(tiny_bert_dir: Path, tmp_path: Path):
    model = load_checkpoint(tiny_bert_dir)
    prune_heads(find_encoder(model.module), {0: [1, 2]})
    model.save(tmp_path)
    facts = inspect_checkpoint(str(tmp_path), timing=False)
    assert [layer.heads for layer in facts.layers] == [2, 4]
    assert facts.layers[0].flops < facts.layers[1].flops


@pytest.mark.parametrize("kind", ["deberta", "deberta-v2"])
def test_a_table_of_positions_that_layers_are_given_as_it_is_is_counted_with_them(
    tmp_path: Path, kind: str
):
    tokenizer = word_piece_tokenizer()
    settings: dict[str, Any] = {**TINY, "vocab_size": len(tokenizer), "num_labels": 2}
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    config = transformers.AutoConfig.for_model(
        kind, **settings, **relative, max_position_embeddings=64, pad_token_id=0
    )
    auto: Any = transformers.AutoModelForSequenceClassification
    auto.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    facts = inspect_checkpoint(str(tmp_path), timing=False)
    # 64 tokens and 128 positions, which both have queries and keys of their own.
    projections = 4 * 32 * 32 * 64 + 2 * 32 * 32 * 128
    scores = 2 * 64 * 64 * 32 + 2 * 64 * 128 * 32
    assert facts.components["attention"].flops == 2 * 2 * (projections + scores)


def test_weights_that_are_not_finite_are_named(tiny_bert_dir: Path, tmp_path: Path):
    model = load_checkpoint(tiny_bert_dir)
    layers = model.module.bert.encoder.layer
    with torch.no_grad():
        layers[1].output.dense.weight[0, :3] = torch.nan
        layers[0].output.dense.bias[5] = torch.inf
    model.save(tmp_path)
    facts = inspect_checkpoint(str(tmp_path), timing=False)
    assert facts.not_finite == {
        "bert.encoder.layer.0.output.dense.bias": 1,
        "bert.encoder.layer.1.output.dense.weight": 3,
    }
    console = Console(width=400, record=True)
    console.print(render_checkpoint(facts))
    assert (
        "broken: 4 weights are NaN or infinite, in bert.encoder.layer.1.output.dense.weight, "
        "bert.encoder.layer.0.output.dense.bias; no pass takes it, train or export it again"
    ) in console.export_text()
    assert not inspect_checkpoint(str(tiny_bert_dir), timing=False).not_finite


def test_tags_of_words_are_told_with_their_scheme(tmp_path: Path):
    tokenizer = word_piece_tokenizer()
    labels = {0: "O", 1: "B-PER", 2: "I-PER"}
    config = transformers.BertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    facts = inspect_checkpoint(str(tmp_path), timing=False)
    assert facts.task == "token-classification"
    assert str(facts.about_labels).startswith("IOB2: entities begin with B- and go on with I-; 1 ")
    console = Console(width=400, record=True)
    console.print(render_checkpoint(facts))
    assert "IOB2: entities begin" in console.export_text()


def test_images_have_no_tokens_and_no_vocabulary(tiny_vit_dir: Path):
    facts = inspect_checkpoint(str(tiny_vit_dir), timing=False)
    assert (facts.task, facts.sequence_length) == ("image-classification", None)
    assert (facts.tokenizer.vocabulary, facts.tokenizer.max_length) == (None, None)
    assert facts.components["embeddings"].flops > 0  # the patches are multiplied
    assert facts.prunable


def test_the_profile_adds_up_and_knows_the_parts(
    tiny_bert_dir: Path, plain: OnnxModel, monkeypatch: pytest.MonkeyPatch
):
    def export(model: TorchModel, path: Path, **settings: Any) -> None:  # as `plain` was made
        shutil.copyfile(plain.path, path)

    monkeypatch.setattr("compressor.inspection.checkpoint.export_onnx", export)
    time = inspect_checkpoint(str(tiny_bert_dir)).time
    assert time is not None
    assert sum(time.by_component.values()) == pytest.approx(1.0)
    assert sum(time.by_operator.values()) == pytest.approx(1.0)
    assert time.by_component["attention"] > 0
    assert time.by_component["feed_forward"] > 0
    assert "MatMul" in time.by_operator


def test_every_key_is_documented(tiny_bert_dir: Path):
    text = DOCUMENT.read_text(encoding="utf-8")
    documented = {
        name.removesuffix("[]").rpartition(".")[2]
        for name in re.findall(r"`([a-z_.0-9\[\]]+)`", text)
    }
    facts = to_dict(inspect_checkpoint(str(tiny_bert_dir), timing=False))
    found = set(facts) | set(facts["layers"][0]) | set(facts["savings"][0])
    found |= set(facts["tokenizer"]) | set(facts["components"]["other"])
    assert found <= documented
    assert json.loads(json.dumps(facts, allow_nan=False))["kind"] == "checkpoint"


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="not a transformers checkpoint"):
        inspect_checkpoint(str(tmp_path))


def test_a_sentence_encoder_says_how_it_makes_vectors(tiny_encoder_dir: Path):
    facts = inspect_checkpoint(str(tiny_encoder_dir), timing=False)
    assert (facts.task, facts.labels) == ("sentence-embedding", ())
    assert facts.embedding == EmbeddingRecord(
        "mean", True, "1_Pooling/config.json", 16, prompts={"query": "q: "}
    )
    assert facts.components["other"].flops == 0  # no pooler and no classifier
    supported = {saving.kind: saving.supported for saving in facts.savings}
    assert (supported["finetune"], supported["distill"]) == (False, True)
    console = Console(width=120)
    with console.capture() as printed:
        console.print(render_checkpoint(facts))
    assert "mean over tokens, length 1 (says 1_Pooling/config.json)" in printed.get()
