"""A tiny masked language model with random weights, and texts whose hidden tokens it gets right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from conftest import BAD, GOOD, NEUTRAL, TINY, word_piece_tokenizer

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.verify.evaluation import predict_outputs

WORDS = (*GOOD, *BAD, *NEUTRAL)


def save_masked_model(folder: Path, **changes: Any) -> Path:
    """Save a random BERT that fills in tokens."""
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    sizes = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 64, **changes}
    module: Any = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    with torch.no_grad():
        module.cls.predictions.transform.LayerNorm.weight.mul_(3)  # it is sure of what it says
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts_it_knows(model: TorchModel, count: int, seed: int = 0) -> tuple[str, ...]:
    """Return short texts whose hidden token the model gets right, no token much too often.

    One in thirty is, by chance, as a model of random weights always says something.
    """
    random = np.random.default_rng(seed)
    drawn = [" ".join(random.choice(WORDS, int(random.integers(4, 10)))) for _ in range(80 * count)]
    texts = tuple(dict.fromkeys(drawn))
    rows = Dataset("search", texts, None, np.arange(len(texts)), "generated")
    found: Any = predict_outputs(model, model.task, model.preprocessor, rows)
    right = np.flatnonzero(found.top[:, 0] == found.truth)
    chosen: list[int] = []
    seen = dict.fromkeys(found.truth.tolist(), 0)
    for row in right.tolist():
        token = int(found.truth[row])
        if seen[token] < count // 4:
            seen[token] += 1
            chosen.append(row)
    assert len(chosen) >= count, "there are enough texts by chance"
    return tuple(texts[row] for row in chosen[:count])
