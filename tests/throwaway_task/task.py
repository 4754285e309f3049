"""A throw-away task: a tag for each word, read off the first piece of the word.

It is the guard of the seam between tasks and everything else: ragged outputs, labels that are no
class ids and examples that are no texts go through a whole run without a line outside this folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from throwaway_task.columns import WordColumns, Words
from torch import Tensor
from torch.nn import functional

from compressor.measurements import Score
from compressor.tasks import (
    UNLABELLED,
    Ability,
    Batch,
    Comparison,
    Example,
    Guess,
    Outputs,
    Predict,
    Truth,
)
from compressor.tasks.columns import Columns
from compressor.tasks.losses import Losses, SummedLoss, in_float32, random_signs
from compressor.tasks.metrics import AGREEMENT, Metric
from compressor.tasks.outputs import Positions
from compressor.tasks.report_words import TOKENS_CODE, ReportWords
from compressor.tasks.text import TextTask

ACCURACY = Metric(
    "tag_accuracy",
    "tag accuracy",
    "the share of tags that are right, document by document",
    "mean",
)


class WordBatch(dict[str, NDArray[Any]]):
    """Model inputs; `first` is True at the first piece of each word, shape `(batch, tokens)`."""

    first: NDArray[np.bool_]


@dataclass(frozen=True)
class TokenLogits(Outputs):
    """Logits of each word, `(num_words, num_labels)`, and the number of words of each document."""

    values: NDArray[np.float32]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    def select(self, positions: Positions) -> Self:
        rows = self.per_example()
        chosen = [rows[place] for place in positions]
        return type(self)(np.concatenate(chosen), np.array([len(row) for row in chosen]))

    @property
    def numbers(self) -> NDArray[np.float32]:
        return self.values

    def per_example(self) -> list[NDArray[np.float32]]:
        return np.split(self.values, np.cumsum(self.lengths)[:-1])

    @property
    def tags(self) -> NDArray[np.int64]:
        """Return the tag of each word of all documents."""
        return self.values.argmax(axis=1).astype(np.int64)


class TokenTags(TextTask):
    """One tag for each word of a document; a document is one example."""

    name: ClassVar[str] = "token-tags"
    head: ClassVar[str] = "ForTokenClassification"
    output: ClassVar[str] = "logits"
    output_words: ClassVar[str] = "logits"
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY, AGREEMENT)
    words: ClassVar[ReportWords] = ReportWords(code=TOKENS_CODE)
    abilities: ClassVar[frozenset[Ability]] = frozenset({"labels", "logits", "own_width"})
    per_token: ClassVar[bool] = True

    def auto_class(self, directory: Path) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def misfit(self, shape: tuple[int, ...], num_rows: int, num_labels: int) -> str | None:
        fits = len(shape) == 3 and (shape[0], shape[2]) == (num_rows, num_labels)
        return None if fits else "a row of logits for each token"

    def columns(self, metric: str) -> Columns:
        return WordColumns()

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:
        return [item if isinstance(item, Words) else Words(tuple(item)) for item in value]

    def dummy_example(self, length: int) -> Example:
        return Words(("the",) * max(1, length - 2))

    def repeated(self, example: Example, times: int) -> Example:
        return Words(_words(example) * times)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        encoded = preprocessor(
            [list(_words(example)) for example in examples],
            is_split_into_words=True,
            padding=True,
            truncation=True,
            max_length=min(self.max_length or 10**9, int(preprocessor.model_max_length)),
            return_tensors="np",
        )
        batch = WordBatch({name: np.asarray(value, np.int64) for name, value in encoded.items()})
        batch.first = np.zeros(batch["input_ids"].shape, dtype=bool)
        for row in range(len(examples)):
            words = encoded.word_ids(row)
            batch.first[row] = [
                word is not None and word not in words[:place] for place, word in enumerate(words)
            ]
        return batch

    def collect(
        self, arrays: Sequence[NDArray[np.float32]], batches: Sequence[Batch]
    ) -> TokenLogits:
        firsts = [_first(batch) for batch in batches]
        values = [array[first] for array, first in zip(arrays, firsts, strict=True)]
        lengths = [first.sum(axis=1) for first in firsts]
        return TokenLogits(np.concatenate(values), np.concatenate(lengths))

    def without_padding(
        self, array: NDArray[np.float32], batch: Batch
    ) -> Sequence[NDArray[np.float32]]:
        mask = batch["attention_mask"].astype(bool)
        return [row[kept] for row, kept in zip(array, mask, strict=True)]

    def targets(self, batch: Batch, labels: NDArray[Any]) -> NDArray[np.int64]:
        first = _first(batch)
        found = np.full(first.shape, UNLABELLED)
        for row, tags in enumerate(labels):
            found[row][first[row]] = tags[: first[row].sum()]
        return found

    def labels_of_changed(self, labels: NDArray[Any], partners: NDArray[Any]) -> None:
        """Return None: which word lost its tag is not known."""

    @property
    def losses(self) -> Losses:
        return TokenLosses()

    def changed(self, before: Outputs, after: Outputs) -> NDArray[np.bool_]:
        return np.asarray(_outcomes(_logits(before)) != _outcomes(_logits(after)))

    def hits(
        self, metric: str, outputs: Outputs, truth: Truth, positions: Positions
    ) -> NDArray[np.bool_] | None:
        if metric != AGREEMENT.name or truth.reference is None:
            return None
        return np.asarray(_outcomes(_logits(outputs)) == truth.reference.outcomes[positions])

    def score(self, metric: str, outputs: Outputs, truth: Truth) -> Score:
        logits = _logits(outputs)
        return _score(metric, logits.tags, logits.lengths, truth, truth.reference)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        if metric == ACCURACY.name and truth.labels is None:
            return "has no tags, so nothing but agreement can be scored on it"
        return None

    def constant(self, score: Score, labels: Sequence[str]) -> str | None:
        tags = score.kept["tags"]
        return f"tags '{labels[tags[0]]}'" if np.all(tags == tags[0]) else None

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        lengths = baseline.kept["lengths"]
        known = baseline.kept["tags"]
        if baseline.metric == ACCURACY.name and truth.labels is not None:
            known = np.concatenate(list(truth.labels))
        most = int(np.bincount(known).argmax())
        always = np.full(lengths.sum(), most)
        score = _score(baseline.metric, always, lengths, truth, baseline)
        return (Guess(f"a model that tags every word '{labels[most]}'", score),)

    def flips(
        self, before: Score, after: Score, truth: Truth, labels: Sequence[str]
    ) -> list[Comparison]:
        shown = [_in_words(score, labels) for score in (before, after)]
        return [
            Comparison(row, shown[0][row], shown[1][row], None, None)
            for row in np.flatnonzero(before.outcomes != after.outcomes).tolist()
        ]

    def samples(
        self,
        before: Score,
        after: Score,
        truth: Truth,
        labels: Sequence[str],
        predict: Predict,
        count: int,
    ) -> list[Comparison]:
        shown = _in_words(before, labels)
        rows = range(min(count, len(shown)))
        found = predict([truth.examples[row] for row in rows])
        return [
            Comparison(row, shown[row], " ".join(tags), None, None)
            for row, tags in zip(rows, found, strict=True)
        ]

    def predictions(self, outputs: Outputs, labels: Sequence[str]) -> list[list[str]]:
        rows = _logits(outputs).per_example()
        return [[labels[tag] for tag in row.argmax(axis=1)] for row in rows]


class TokenLosses(Losses):
    """Cross-entropy of each token, shape `(batch, tokens, num_labels)`; padding never counts."""

    def on_labels(self, outputs: Tensor, targets: Tensor) -> SummedLoss:
        total = functional.cross_entropy(
            in_float32(outputs).flatten(0, 1), targets.flatten(), reduction="sum"
        )
        return SummedLoss(total, (targets != UNLABELLED).sum())

    def distance(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float
    ) -> SummedLoss:
        own, other = (
            functional.log_softmax(in_float32(item) / temperature, dim=-1)
            for item in (student, teacher)
        )
        each = functional.kl_div(own, other, log_target=True, reduction="none").sum(dim=-1)
        kept = torch.ones_like(each) if mask is None else mask.to(each)
        return SummedLoss((each * kept).sum(), kept.sum(), least=None, scale=temperature**2)

    def own_targets(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        tags = outputs.argmax(dim=-1)
        return tags if mask is None else tags.masked_fill(mask == 0, UNLABELLED)

    def fisher_probes(
        self, outputs: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> Iterator[Tensor]:
        p = torch.softmax(outputs.detach(), dim=-1)  # (batch, tokens, labels)
        centred = outputs - (p * outputs).sum(dim=-1, keepdim=True)
        kept = torch.ones_like(p) if mask is None else mask.unsqueeze(-1).to(p)
        for _ in range(2):
            yield (kept * p.sqrt() * random_signs(p, generator) * centred).sum() / math.sqrt(2)


def _words(example: Example) -> tuple[str, ...]:
    assert isinstance(example, Words)
    return example.words


def _first(batch: Batch) -> NDArray[np.bool_]:
    assert isinstance(batch, WordBatch)
    return batch.first


def _logits(outputs: Outputs) -> TokenLogits:
    assert isinstance(outputs, TokenLogits)
    return outputs


def _documents(tags: NDArray[np.int64], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.split(tags, np.cumsum(lengths)[:-1])


def _digest(tags: NDArray[np.int64]) -> int:
    return int.from_bytes(hashlib.sha256(tags.tobytes()).digest()[:7], "big")


def _outcomes(outputs: TokenLogits) -> NDArray[np.int64]:
    """Return a number for each document that is the same only where all its tags are."""
    return np.array([_digest(tags) for tags in _documents(outputs.tags, outputs.lengths)])


def _score(
    metric: str,
    tags: NDArray[np.int64],
    lengths: NDArray[np.int64],
    truth: Truth,
    reference: Score | None,
) -> Score:
    found = _documents(tags, lengths)
    outcomes = np.array([_digest(document) for document in found])
    kept = {"tags": tags, "lengths": lengths}
    if metric == AGREEMENT.name:
        same = outcomes == (outcomes if reference is None else reference.outcomes)
        return Score(metric, float(np.mean(same)), len(found), outcomes, kept=kept)
    assert truth.labels is not None, "the caller asked whether it can be scored"
    shares = np.array(
        [np.mean(own == right[: len(own)]) for own, right in zip(found, truth.labels, strict=True)]
    )
    return Score(metric, float(np.mean(shares)), len(found), outcomes, shares=shares, kept=kept)


def _in_words(score: Score, labels: Sequence[str]) -> list[str]:
    documents = _documents(score.kept["tags"], score.kept["lengths"])
    return [" ".join(labels[tag] for tag in document) for document in documents]
