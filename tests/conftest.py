"""Tiny random models and data that every test folder shares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint

GOOD = ("good", "great", "fine", "lovely", "brilliant", "funny")
BAD = ("bad", "awful", "poor", "dull", "terrible", "boring")
NEUTRAL = ("a", "the", "film", "movie", "plot", "very", "quite", "and", "was", "story", "it", "is")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("##s", "##ly", "##ing", "un", ",", ".", "!")


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
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
        initializer_range=0.3,
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
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
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
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        id2label={0: "zero", 1: "one", 2: "two"},
        label2id={"zero": 0, "one": 1, "two": 2},
        initializer_range=0.3,
    )
    transformers.ViTForImageClassification(config).save_pretrained(directory)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]
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
