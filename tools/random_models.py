"""Random classifiers of two sizes, written to disk: for checks that must not need a download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from compressor.models.torch_model import TorchModel, load_checkpoint

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64},
    "base": {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
             "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512},
}  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NUM_TEXTS = 64
SEED = 0


def subjects(folder: Path, checkpoint: Path | None, sizes: Sequence[str]) -> dict[str, TorchModel]:
    """Write random models, and return them and the given checkpoint by name."""
    found = {}
    for name in sizes:
        random_checkpoint(folder / name / "checkpoint", SIZES[name])
    if checkpoint is not None:
        (folder / "given").mkdir()
        (folder / "given" / "checkpoint").symlink_to(checkpoint.resolve())
    for name in (*sizes, *(["given"] if checkpoint else [])):
        found[name] = load_checkpoint(folder / name / "checkpoint")
    return found


def random_checkpoint(
    folder: Path,
    shape: dict[str, Any],
    *,
    head: str = "SequenceClassification",
    labels: Sequence[str] = ("no", "yes"),
) -> None:
    """Write a random BERT with a head of transformers' and a tokenizer of made-up words."""
    words = [*SPECIAL, *(f"w{index}" for index in range(shape["vocab_size"] - len(SPECIAL)))]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings: dict[str, Any] = {
        "tokenizer_object": tokenizer,
        "model_max_length": shape["max_position_embeddings"],
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(special, SPECIAL, strict=True)),
    }
    made = transformers.PreTrainedTokenizerFast(**settings)
    made.save_pretrained(folder)
    torch.manual_seed(SEED)
    names = dict(enumerate(labels))
    ids = {name: label for label, name in names.items()}
    config = transformers.BertConfig(id2label=names, label2id=ids, **shape)
    getattr(transformers, f"BertFor{head}")(config).save_pretrained(folder)


def texts_for(model: TorchModel) -> list[str]:
    """Return texts of 1 to 40 words that the tokenizer knows."""
    random = np.random.default_rng(SEED)
    known = sorted(set(model.preprocessor.get_vocab()) - set(model.preprocessor.all_special_tokens))
    words = [word for word in known if word.isalnum()]
    return [" ".join(random.choice(words, size=random.integers(1, 40))) for _ in range(NUM_TEXTS)]
