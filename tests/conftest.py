"""Tiny random models and data that every test folder shares."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from random_encoders import make_encoder  # noqa: F401 -- a fixture
from small_graphs import (  # noqa: F401 -- fixtures
    integer_matmul,
    make_graph,
    run_graph,
    token_matmul,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from traced_graphs import TracedGraphs, trace_anew

from compressor.artifact import load_artifact, seal_artifact, write_artifact
from compressor.data import Dataset
from compressor.export import to_onnx
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint

GOOD = ("good", "great", "fine", "lovely", "brilliant", "funny")
BAD = ("bad", "awful", "poor", "dull", "terrible", "boring")
NEUTRAL = ("a", "the", "film", "movie", "plot", "very", "quite", "and", "was", "story", "it", "is")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("##s", "##ly", "##ing", "un", ",", ".", "!")
# One test or fixture of each takes half a minute or more.
LONGEST = ("test_campaign.py", "test_digits.py", "test_quickstart.py")
# Weights of the usual spread would leave layers this narrow near zero.
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: at the end, one process would work and the others wait for it."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collections: they took a tenth of each export."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def traced_graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trace each model once for all processes of the tests; return the folder of the graphs."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "traced-graphs"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_onnx, "_traced", TracedGraphs(folder))
        yield folder


@pytest.fixture
def traces_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace every model in this test, also one that was traced before."""
    monkeypatch.setattr(to_onnx, "_traced", trace_anew)


def word_piece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = [*SPECIAL, *GOOD, *BAD, *NEUTRAL, *PIECES]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved random BERT classifier with two labels."""
    directory = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved random BERT without a head, with the files of sentence-transformers."""
    directory = tmp_path_factory.mktemp("tiny-encoder")
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(**TINY, vocab_size=len(tokenizer), max_position_embeddings=64)
    transformers.BertModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (directory / "config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    return directory


@pytest.fixture(scope="session")
def tiny_vit_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved random ViT classifier of 8x8 grey images with three labels."""
    directory = tmp_path_factory.mktemp("tiny-vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        **TINY,
        image_size=8,
        patch_size=2,
        num_channels=1,
        id2label={0: "zero", 1: "one", 2: "two"},
        label2id={"zero": 0, "one": 1, "two": 2},
    )
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]
    )
    processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_resnet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved random ResNet of 32x32 grey images with three labels."""
    directory = tmp_path_factory.mktemp("tiny-resnet")
    torch.manual_seed(1)
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[16, 16],
        depths=[1, 2],
        layer_type="basic",
        id2label={0: "zero", 1: "one", 2: "two"},
        label2id={"zero": 0, "one": 1, "two": 2},
    )
    module = transformers.ResNetForImageClassification(config)
    for name, values in module.named_buffers():  # as norms have that have seen images
        if name.endswith("running_var"):
            values.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            values.normal_(0, 0.1)
    module.save_pretrained(directory)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 32, "width": 32}, image_mean=[0.5], image_std=[0.5]
    )
    processor.save_pretrained(directory)
    return directory


@pytest.fixture
def tiny_bert(tiny_bert_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_bert_dir)


@pytest.fixture
def tiny_encoder(tiny_encoder_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_encoder_dir)


@pytest.fixture
def tiny_vit(tiny_vit_dir: Path) -> TorchModel:
    return load_checkpoint(tiny_vit_dir)


@pytest.fixture(scope="session")
def exported_bert(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Return the tiny BERT as a graph, fused for the CPU. Tracing takes seconds: share it."""
    path = tmp_path_factory.mktemp("exported-bert") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_bert_dir), path, threads=1)


@pytest.fixture(scope="session")
def exported_bert_for_cuda(
    tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    """Return the tiny BERT as a graph, fused for CUDA; open its file anew to run it elsewhere."""
    path = tmp_path_factory.mktemp("exported-bert-for-cuda") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_bert_dir), path, provider="cuda", threads=2)


@pytest.fixture(scope="session")
def exported_standard_bert(
    tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    """Return the tiny BERT as a graph of standard operators, for TensorRT and other tools."""
    path = tmp_path_factory.mktemp("exported-standard-bert") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_bert_dir), path, provider="tensorrt")


@pytest.fixture(scope="session")
def exported_vit(tiny_vit_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Return the tiny ViT as a graph, fused for the CPU."""
    path = tmp_path_factory.mktemp("exported-vit") / "model.onnx"
    return export_onnx(load_checkpoint(tiny_vit_dir), path, threads=1)


@pytest.fixture(scope="session")
def text_dataset() -> Dataset:
    """Return 48 short texts of several lengths, half of them positive (label 1)."""
    random = np.random.default_rng(0)
    examples, labels = [], []
    for index in range(48):
        label = index % 2
        length = int(random.integers(1, 12))
        words = [*random.choice(NEUTRAL, size=length), random.choice((BAD, GOOD)[label])]
        random.shuffle(words)
        examples.append(" ".join(words))
        labels.append(label)
    return Dataset(
        "train", tuple(examples), np.array(labels, dtype=np.int64), np.arange(48), "generated"
    )


@pytest.fixture(scope="session")
def image_dataset() -> Dataset:
    """Return 48 noisy 8x8 images of three kinds: bright top, bright bottom, bright left."""
    random = np.random.default_rng(0)
    examples, labels = [], []
    for index in range(48):
        image = random.integers(0, 100, size=(8, 8)).astype(np.uint8)
        region = (np.s_[:4, :], np.s_[4:, :], np.s_[:, :4])[index % 3]
        image[region] += 150
        examples.append(image)
        labels.append(index % 3)
    return Dataset(
        "train", tuple(examples), np.array(labels, dtype=np.int64), np.arange(48), "generated"
    )


@pytest.fixture(scope="session")
def bert_recipe(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return a recipe without passes over the tiny BERT, to change in copies.

    Its own predictions are the labels, so the accuracy is 1.
    """
    words = ["good", "bad", "fine film", "a dull plot", "very funny", "the story was poor"]
    texts = [f"{first} {second}" for first in words for second in words]
    model = load_checkpoint(tiny_bert_dir)
    predictions = model.predict(model.task.encode(model.preprocessor, texts)).argmax(axis=1)
    rows = [f"{text},{label}" for text, label in zip(texts, predictions, strict=True)]
    data = tmp_path_factory.mktemp("bert-recipe") / "rows.csv"
    data.write_text("\n".join(["text,label", *rows]) + "\n")
    return {
        "model": {"checkpoint": str(tiny_bert_dir)},
        "data": {"text": "text", "label": "label", "search": {"path": str(data)}},
        "budget": {"max_drop": 0.9},
        "passes": [],
        "benchmark": {
            "batch_sizes": [1],
            "sequence_lengths": [8],
            "num_runs": 2,
            "warmup_runs": 1,
            "threads": 1,
        },
    }


@pytest.fixture(scope="session")
def served_folder(
    tiny_bert_dir: Path, exported_bert: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the artifact of a classifier."""
    model = load_checkpoint(tiny_bert_dir)
    folder = tmp_path_factory.mktemp("served") / "artifact"
    write_artifact(
        folder,
        model=exported_bert,
        preprocessor=model.preprocessor,
        config=model.module.config,
        max_length=32,
    )
    seal_artifact(folder, task=model.task, labels=model.labels, facts={})
    return folder


@pytest.fixture(scope="session")
def balanced_rows(served_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of texts of which the tiny BERT takes half for one class, half for the other.

    They are labelled as it predicts.
    """
    draw = np.random.default_rng(0)
    words = (*GOOD, *BAD, *NEUTRAL)
    texts = sorted({" ".join(draw.choice(words, draw.integers(1, 9))) for _ in range(3000)})
    found = [item["label"] for item in load_artifact(served_folder)(texts)]
    kinds = {
        label: [t for t, own in zip(texts, found, strict=True) if own == label] for label in found
    }
    count = min(60, *map(len, kinds.values()))
    assert count >= 30
    path = tmp_path_factory.mktemp("rows") / "today.jsonl"
    lines = [
        json.dumps({"text": text, "label": label, "who": "x"})
        for label, own in sorted(kinds.items())
        for text in own[:count]
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
