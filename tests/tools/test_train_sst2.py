"""What is set apart of SST-2 has nothing to do with what is trained on, and training learns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, NEUTRAL
from transformers import AutoModel, AutoTokenizer


@pytest.fixture(scope="module")
def tool(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("train_sst2")


@pytest.fixture(scope="module")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of eight words, with phrases of them as further rows, in any order."""
    draw = np.random.default_rng(0)
    lines = []
    for number in range(300):
        label = number % 2
        words = draw.choice(NEUTRAL, size=8).tolist()
        words[3], words[7] = draw.choice(GOOD if label else BAD, size=2).tolist()
        for start, end in ((0, 8), (0, 4), (4, 8), (6, 8), (7, 8)):
            lines.append(f"{label}\t{' '.join(words[start:end])} ")
    draw.shuffle(lines)
    path = tmp_path_factory.mktemp("sst2") / "train.tsv"
    path.write_text("label\tsentence\n" + "\n".join(lines) + "\n")
    return path


def test_no_row_is_a_part_of_a_row_of_another_file(tool: ModuleType, train_file: Path):
    rows = tool.read_rows(train_file)
    splits = tool.split(rows, 200, seed=0)
    assert list(splits) == ["train", "choice", "certification"]
    assert all(len(splits[name]) >= 100 for name in ("choice", "certification"))
    assert len(splits["train"]) > 600
    for name, own in splits.items():
        others = [f" {row.text} " for other in splits if other != name for row in splits[other]]
        assert not any(f" {row.text} " in text for row in own for text in others)
    texts = [row.text for own in splits.values() for row in own]
    assert len(set(texts)) == len(texts) < len(rows)  # short phrases of several files are in none
    assert all(any(row.whole for row in own) for own in splits.values())


def test_a_text_that_occurs_twice_is_one_row(tool: ModuleType, tmp_path: Path):
    path = tmp_path / "train.tsv"
    path.write_text("label\tsentence\n1\ta good  film \n0\ta good film\n1\tgood film\n")
    rows = tool.read_rows(path)
    assert rows == [tool.Row("a good film", 1, True), tool.Row("good film", 1, False)]


def test_what_is_written_is_read_again(tool: ModuleType, tmp_path: Path):
    rows = [tool.Row('he said " fine', 1, True), tool.Row("dull", 0, True)]
    tool.write_rows(tmp_path / "rows.tsv", rows)
    assert tool.read_rows(tmp_path / "rows.tsv") == rows


def test_an_encoder_of_another_shape_has_the_words_of_the_first(
    tool: ModuleType, tiny_encoder_dir: Path, tmp_path: Path
):
    folder = tool.write_encoder(tiny_encoder_dir, tmp_path / "encoder", layers=3, width=128)
    made, first = (AutoModel.from_pretrained(path) for path in (folder, tiny_encoder_dir))
    config = made.config
    assert (config.num_hidden_layers, config.hidden_size) == (3, 128)
    assert (config.num_attention_heads, config.intermediate_size) == (2, 512)
    table, words = (model.get_input_embeddings().weight.detach() for model in (made, first))
    known = words.shape[1]
    torch.testing.assert_close(table[:, :known] / table[1, 0], words / words[1, 0])
    assert table[:, :known].std().item() == pytest.approx(0.02, rel=1e-5)
    for layer in made.encoder.layer:
        inside, added = layer.intermediate.dense.weight.std(), layer.output.dense.weight.std()
        assert (inside / added).item() == pytest.approx(6**0.5, rel=0.05)
    texts = ["a good film", "dull"]
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (folder, tiny_encoder_dir)]
    assert tokenizers[0](texts)["input_ids"] == tokenizers[1](texts)["input_ids"]


@pytest.mark.parametrize("text", ["12", "12x", "x768", "0x768", "12x100", "12x-64"])
def test_a_shape_that_cannot_be_is_refused(tool: ModuleType, text: str):
    assert tool.shape("12x768") == (12, 768)
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        tool.shape(text)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_tiny_classifier_learns_the_labels(
    tool: ModuleType, train_file: Path, tiny_encoder_dir: Path, precision: torch.dtype
):
    splits = tool.split(tool.read_rows(train_file), 200, seed=0)
    model, tokenizer = tool.new_classifier(tiny_encoder_dir, seed=0)
    assert tool.is_right(model, tokenizer, splits["choice"]).mean() < 0.7
    settings = {"batch_size": 32, "learning_rate": 1e-3, "epochs": 8, "seed": 0}
    tool.fit(model, tokenizer, splits["train"], **settings, precision=precision)
    assert tool.is_right(model, tokenizer, splits["choice"]).mean() > 0.8
    assert model.config.id2label == {0: "negative", 1: "positive"}
