"""Texts some of whose tokens are hidden, and what a masked language model says at those places.

The logits of such a model have the size of the vocabulary at every token: only those at hidden
places are looked at, one batch at a time, and of each place a few numbers are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.runtime.filling import likeliest, require_mask, rows_together
from compressor.setting_errors import show
from compressor.tasks.examples import Example, texts_of
from compressor.tasks.outputs import UNLABELLED, Outputs, Positions, told_apart

HIDDEN_SHARE = 0.15  # of a text's tokens, as BERT was trained: Devlin et al. 2019, arXiv:1810.04805
_MASKED, _REPLACED = 0.8, 0.1  # of hidden tokens while a model is trained; the rest stays
_SAMPLED = 63  # columns of the logits that are kept to tell how far they move
_SEED = 0x6D61736B  # keeps these draws apart from others

Ids = NDArray[np.int64]
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class _OneText:
    text: str

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the text."""
        return (self.text,)


class Hidden(_OneText):
    """A text of which the task itself hides tokens, as it does in the rows of a split."""


class ToFill(_OneText):
    """A text that holds mask tokens, which is what a user of an artifact gives."""


class MadeUp(_OneText):
    """A text that stands for any other, whose words a vocabulary need not have."""


class HiddenBatch(dict[str, NDArray[Any]]):
    """Model inputs in which tokens are hidden; arrays are int64 of shape `(batch, tokens)`.

    `targets` holds the token that was hidden, -100 elsewhere, and -100 everywhere in a text that a
    user gave; `wanted` is True where a prediction is asked for.
    """

    targets: Ids
    wanted: NDArray[np.bool_]
    tokenizer: Any

    def rows(self, start: int, end: int) -> HiddenBatch:
        """Return some of the rows."""
        found = HiddenBatch({name: value[start:end] for name, value in self.items()})
        found.targets, found.wanted = self.targets[start:end], self.wanted[start:end]
        found.tokenizer = self.tokenizer
        return found

    @property
    def mask_id(self) -> int:
        """Return the id of the mask token."""
        return int(self.tokenizer.mask_token_id)


def hide(
    tokenizer: Any,
    examples: Sequence[Example],
    encoded: dict[str, NDArray[np.int64]],
    *,
    drawn: tuple[int, ...] | None = None,
) -> HiddenBatch:
    """Hide tokens of texts that were encoded; special tokens never are.

    Without `drawn` the places follow from the text alone, so that every model with the same tokens
    is asked the same, and a mask token stands at each of them. With `drawn`, the numbers that the
    draw follows from, such as a seed and an epoch, it is that of a training: of the hidden tokens
    80% become the mask token, 10% another token and 10% stay.

    Raises `RecipeError` for a text without a token to hide, `ValueError` for one of a user without
    a mask token.
    """
    batch = HiddenBatch({name: value.copy() for name, value in encoded.items()})
    ids = batch["input_ids"]
    batch.tokenizer = tokenizer
    batch.targets = np.full(ids.shape, UNLABELLED, dtype=np.int64)
    batch.wanted = np.zeros(ids.shape, dtype=bool)
    hidable = may_hide(tokenizer, ids)
    for row, example in enumerate(examples):
        text = str(texts_of(example)[0])
        if isinstance(example, ToFill):
            batch.wanted[row] = ids[row] == batch.mask_id
            require_mask(tokenizer, text, batch.wanted[row])
            continue
        places = np.flatnonzero(hidable[row])
        if len(places) == 0 and isinstance(example, MadeUp):
            places = np.array([ids.shape[1] // 2])  # any other than the first
        if len(places) == 0:
            raise RecipeError(nothing_to_hide(text))
        random = np.random.default_rng([_SEED, *(drawn or ()), _number_of(text)])
        count = max(1, round(HIDDEN_SHARE * len(places)))
        chosen = np.sort(random.choice(places, count, replace=False))
        batch.targets[row, chosen] = ids[row, chosen]
        batch.wanted[row, chosen] = True
        if drawn is None:
            ids[row, chosen] = batch.mask_id
            continue
        draw = random.random(count)
        ids[row, chosen[draw < _MASKED]] = batch.mask_id
        replaced = chosen[(draw >= _MASKED) & (draw < _MASKED + _REPLACED)]
        ids[row, replaced] = random.integers(0, len(tokenizer), len(replaced))
    return batch


def may_hide(tokenizer: Any, ids: Ids) -> NDArray[np.bool_]:
    """Return which tokens may be hidden, in the shape of `ids`: all but special ones."""
    return ~np.isin(ids, np.array(tokenizer.all_special_ids, dtype=np.int64))


def nothing_to_hide(text: str) -> str:
    """Return what is said of a text whose tokens are all special, such as unknown words."""
    return f"the text {show(text)} has no token that could be hidden; leave such texts out"


def few_rows(batch: HiddenBatch, vocabulary: int) -> Iterator[HiddenBatch]:
    """Yield the rows of a batch, so many together that their logits take at most 256 MiB."""
    count, tokens = batch["input_ids"].shape
    most = rows_together(tokens, vocabulary)
    for start in range(0, count, most):
        yield batch.rows(start, start + most)


@dataclass(frozen=True)
class HiddenOutputs(Outputs):
    """What a model says at the hidden places of several texts, one after the other.

    `top` and `top_scores`, shape `(num_places, 5)`, are the likeliest tokens and their
    probabilities, the likeliest first. `truth` is the token that was hidden, -100 where nobody
    knows it, and `log_probabilities` that token's, 0 then; both `(num_places,)`. `values`, shape
    `(num_places, 64)`, are logits at columns that every model with this vocabulary is asked about,
    and that of the hidden token. `lengths`, shape `(num_texts,)`, counts the places of each text,
    whose ids with mask tokens are in `ids`.
    """

    top: Ids
    top_scores: Floats32
    truth: Ids
    log_probabilities: NDArray[np.float64]
    values: Floats32
    lengths: Ids
    ids: tuple[Ids, ...] = field(repr=False)
    tokenizer: Any = field(repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.lengths)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the texts of all parts, one after the other."""
        if not parts:
            raise ValueError("there are no parts")

        def whole(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        return cls(
            whole("top"),
            whole("top_scores"),
            whole("truth"),
            whole("log_probabilities"),
            whole("values"),
            whole("lengths"),
            tuple(row for part in parts for row in part.ids),
            parts[0].tokenizer,
        )

    def select(self, positions: Positions) -> Self:
        """Return the texts at `positions`, in that order."""
        ends = np.cumsum(self.lengths)
        chosen = np.asarray(positions, dtype=np.int64)
        places = np.concatenate(
            [np.arange(ends[row] - self.lengths[row], ends[row]) for row in chosen.tolist()]
            or [np.zeros(0, np.int64)]
        )
        return type(self)(
            self.top[places],
            self.top_scores[places],
            self.truth[places],
            self.log_probabilities[places],
            self.values[places],
            self.lengths[chosen],
            tuple(self.ids[row] for row in chosen.tolist()),
            self.tokenizer,
        )

    @property
    def numbers(self) -> Floats32:
        """Return the logits that are kept."""
        return self.values

    def per_example(self) -> list[Floats32]:
        """Return the logits that are kept of each text."""
        return np.split(self.values, np.cumsum(self.lengths)[:-1])

    def names(self, tokens: Ids) -> Ids:
        """Return a number for each token that is the same in every vocabulary which has it."""
        known, places = np.unique(tokens, return_inverse=True)
        words = self.tokenizer.convert_ids_to_tokens(known.tolist())
        found: Ids = told_apart(str(word).encode() for word in words)[places]
        return found

    def words(self, tokens: Ids) -> dict[int, str]:
        """Return what the tokens read like, by their numbers of `names`."""
        known = np.unique(tokens)
        numbers = self.names(known).tolist()
        return {
            number: self.tokenizer.decode([token]).replace("\0", "").strip()
            for number, token in zip(numbers, known.tolist(), strict=True)
        }


def read_hidden(batch: HiddenBatch, logits: Floats32) -> HiddenOutputs:
    """Return what `logits`, shape `(batch, tokens, vocabulary)`, say at the places of a batch."""
    rows, columns = np.nonzero(batch.wanted)
    found = np.asarray(logits[rows, columns], dtype=np.float32)  # (num_places, vocabulary)
    truth = batch.targets[rows, columns]
    vocabulary = found.shape[1]
    top, top_scores, log_total = likeliest(found)
    known = truth != UNLABELLED
    own = np.take_along_axis(found, np.where(known, truth, 0)[:, None], axis=1)[:, 0]
    sampled = np.random.default_rng([_SEED, vocabulary]).integers(0, vocabulary, _SAMPLED)
    mask = batch.get("attention_mask", np.ones_like(batch["input_ids"])).astype(bool)
    return HiddenOutputs(
        top,
        top_scores,
        truth,
        np.where(known, own - log_total, 0.0),
        np.concatenate([found[:, sampled], own[:, None]], axis=1),
        batch.wanted.sum(axis=1).astype(np.int64),
        tuple(ids[kept] for ids, kept in zip(batch["input_ids"], mask, strict=True)),
        batch.tokenizer,
    )


def at_hidden(batch: HiddenBatch, logits: Floats32) -> list[Floats32]:
    """Return the logits of each row where a mask token stands, wherever its padding is."""
    places = batch["input_ids"] == batch.mask_id
    return [row[here] for row, here in zip(logits, places, strict=True)]


def _number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
