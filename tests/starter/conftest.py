"""Tiny models whose random predictions fall evenly on their classes, for rows to judge them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, NEUTRAL
from numpy.typing import NDArray

from compressor.data import Dataset
from compressor.models.torch_model import load_checkpoint
from compressor.verify.evaluation import predict_outputs

Make = Callable[[Path, Dataset, str], Path]


@pytest.fixture(scope="session")
def balance(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that copies a checkpoint and moves the biases of its head."""

    def make(directory: Path, dataset: Dataset, head: str) -> Path:
        copy = tmp_path_factory.mktemp("balanced") / "model"
        shutil.copytree(directory, copy)
        model = load_checkpoint(copy)
        logits = predict_outputs(model, model.task, model.preprocessor, dataset).numbers
        with torch.no_grad():
            bias = model.module.get_submodule(head).bias
            bias -= torch.from_numpy(np.median(logits, axis=0))
        model.module.save_pretrained(copy)
        return copy

    return make


@pytest.fixture(scope="session")
def tiny_bert_dir(tiny_bert_dir: Path, text_dataset: Dataset, balance: Make) -> Path:
    return balance(tiny_bert_dir, text_dataset, "classifier")


@pytest.fixture(scope="session")
def tiny_vit_dir(tiny_vit_dir: Path, image_dataset: Dataset, balance: Make) -> Path:
    return balance(tiny_vit_dir, image_dataset, "classifier")


@pytest.fixture(scope="session")
def predictions(tiny_bert_dir: Path, text_dataset: Dataset) -> NDArray[np.int64]:
    """Return what the tiny BERT predicts for the texts, shape `(48,)`."""
    model = load_checkpoint(tiny_bert_dir)
    logits = predict_outputs(model, model.task, model.preprocessor, text_dataset).numbers
    return logits.argmax(axis=1).astype(np.int64)


@pytest.fixture(scope="session")
def told(text_dataset: Dataset, predictions: NDArray[np.int64]) -> list[list[str | int]]:
    """Return the texts with the tiny BERT's predictions as labels, the two classes in turn."""
    return in_turn(list(map(str, text_dataset.examples)), predictions)


@pytest.fixture(scope="session")
def fresh(tiny_bert_dir: Path, text_dataset: Dataset) -> list[list[str | int]]:
    """Return 960 other texts in the same way, no two of them alike."""
    random = np.random.default_rng(7)
    words = (*GOOD, *BAD, *NEUTRAL)
    drawn = [" ".join(random.choice(words, random.integers(3, 12))) for _ in range(4000)]
    known = set(text_dataset.examples)
    texts = tuple(text for text in dict.fromkeys(drawn) if text not in known)
    model = load_checkpoint(tiny_bert_dir)
    rows = Dataset("certification", texts, None, np.arange(len(texts)), "generated")
    logits = predict_outputs(model, model.task, model.preprocessor, rows).numbers
    return in_turn(texts, logits.argmax(axis=1))[:960]


def in_turn(texts: Sequence[str], predictions: NDArray[np.int64]) -> list[list[str | int]]:
    by_class = [
        [text for text, given in zip(texts, predictions, strict=True) if given == own]
        for own in (0, 1)
    ]
    pairs = zip(*by_class, strict=False)
    return [[text, own] for pair in pairs for own, text in enumerate(pair)]
