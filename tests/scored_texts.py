"""Tiny checkpoints that give one number, and rows for them: queries with candidates, and grades."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from conftest import BAD, GOOD, NEUTRAL, TINY, word_piece_tokenizer
from torch.nn import functional

Row = dict[str, Any]
CANDIDATES = 5


def query_rows(seed: int, num_queries: int) -> list[Row]:
    """Return rows of queries with five candidates each; those with a good word are relevant.

    The relevant ones come first, which must help nobody.
    """
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num_queries):
        query = " ".join(random.choice([*NEUTRAL, *GOOD, *BAD], size=4))
        for place in range(CANDIDATES):
            length = int(random.integers(1, 8))
            word = random.choice(GOOD if place < 2 else BAD)
            passage = [*random.choice(NEUTRAL, size=length), word]
            rows.append(
                {
                    "query_id": f"q{number}",
                    "query": query,
                    "passage": " ".join(random.permutation(passage)),
                    "relevance": int(place < 2),
                    "source": "web" if number % 2 else "print",
                }
            )
    return rows


def graded_rows(seed: int, count: int) -> list[Row]:
    """Return texts with the number of their good words less that of their bad ones."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = random.choice([*NEUTRAL, *GOOD, *BAD], size=int(random.integers(2, 12))).tolist()
        grade = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        rows.append({"text": " ".join(words), "grade": grade, "source": "web"})
    return rows


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def new_module(**config: Any) -> tuple[Any, Any]:
    """Return a random model with one logit, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    settings = transformers.BertConfig(
        **TINY, vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=1, **config
    )
    return transformers.BertForSequenceClassification(settings), tokenizer


def save(module: Any, tokenizer: Any, directory: Path) -> Path:
    module.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def trained_reranker(directory: Path) -> Path:
    """Save a reranker with a sigmoid that was trained for a moment."""
    module, tokenizer = new_module(
        sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    )
    rows = query_rows(100, 60)
    inputs = tokenizer(
        [row["query"] for row in rows],
        [row["passage"] for row in rows],
        padding=True,
        return_tensors="pt",
    )
    wanted = torch.tensor([float(row["relevance"] > 0) for row in rows])
    _fit(module, inputs, wanted, functional.binary_cross_entropy_with_logits)
    return save(module, tokenizer, directory)


def trained_regression(directory: Path) -> Path:
    """Save a regression that was trained for a moment."""
    module, tokenizer = new_module(problem_type="regression")
    rows = graded_rows(100, 200)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    wanted = torch.tensor([float(row["grade"]) for row in rows])
    _fit(module, inputs, wanted, functional.mse_loss)
    return save(module, tokenizer, directory)


def _fit(module: Any, inputs: Any, wanted: torch.Tensor, loss: Any) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss(module(**inputs).logits[:, 0], wanted).backward()
        optimizer.step()
    module.eval()
