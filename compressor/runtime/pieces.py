"""Documents as tokens, and as many rows of model inputs as it takes to read all of each.

A document is a text, or a list of words. Of both it is known which word each token is a piece of,
and which characters it stands for. One with more tokens than a model reads becomes several rows,
which overlap (`windows.py`): nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import EnvironmentMismatch, RecipeError
from .examples import Example, Words, texts_of
from .windows import Window, parts_of, windows_of
from .words import show

NO_WORD = -1  # of a token between words
_PROBES = ("the", "Paris", "x1")  # words that show how a tokenizer reads words one by one


@dataclass(frozen=True)
class Document:
    """One document as tokens, without the special tokens around it.

    `ids`, shape `(num_tokens,)`; `words`, shape `(num_tokens,)`, the number of the word that each
    is a piece of or `NO_WORD`; `offsets`, shape `(num_tokens, 2)`, the characters of `text`.
    `tokenizer` is what made them, which spells tokens as text again.
    """

    text: str
    ids: NDArray[np.int64]
    words: NDArray[np.int64]
    offsets: NDArray[np.int64]
    num_words: int
    is_split: bool  # it was given word by word
    begin: int  # special tokens in front of it
    tokenizer: Any

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def spell(self, tokens: list[str]) -> str:
        """Return tokens, as the tokenizer calls them, as text."""
        text: str = self.tokenizer.convert_tokens_to_string(tokens)
        return text

    @cached_property
    def first_pieces(self) -> NDArray[np.int64]:
        """Return the token with which each word begins, shape `(num_words,)`; -1 for none."""
        found = np.full(self.num_words, -1, dtype=np.int64)
        tokens = np.flatnonzero(self.words != NO_WORD)
        words, first = np.unique(self.words[tokens], return_index=True)
        found[words] = tokens[first]
        return found


@dataclass(frozen=True)
class Row:
    """One row of a batch: `window` of the tokens of `document`, from the column `column` on.

    `taken` are those of its tokens whose outputs are taken from this row and from no other.
    """

    document: int
    window: Window
    taken: Window
    column: int

    @property
    def columns(self) -> slice:
        """Return the columns of the tokens that are taken from this row."""
        start = self.column + self.taken.start - self.window.start
        return slice(start, start + self.taken.end - self.taken.start)


class DocumentBatch(dict[str, NDArray[Any]]):
    """Model inputs, int64 of shape `(num_rows, tokens)`, and the documents that the rows are of.

    The rows of a document stand together, in its order.
    """

    documents: tuple[Document, ...]
    rows: tuple[Row, ...]


def require_fast(tokenizer: Any, place: str, needed: str) -> None:
    """Raise `EnvironmentMismatch` unless a tokenizer says which part of a text each token is.

    `place` is where it was loaded from; `needed` ends the sentence "it does not say ...".
    """
    if not tokenizer.is_fast:
        raise EnvironmentMismatch(
            f"{place}: {type(tokenizer).__name__} is no fast tokenizer and does not say {needed}; "
            f"save the fast one, tokenizer.json, beside the weights"
        )


def require_words(tokenizer: Any, place: str) -> None:
    """Raise `EnvironmentMismatch` unless a tokenizer says which word each token is a piece of.

    `place` is where it was loaded from.
    """
    require_fast(tokenizer, place, "which word a token is a piece of, so tags have no place")
    before_words(tokenizer, place)


def before_words(tokenizer: Any, place: str = "the tokenizer") -> str:
    """Return what has to stand before words for them to be read as they are inside a text.

    Byte-level tokenizers without `add_prefix_space`, as RoBERTa's, read a word at the beginning of
    a text otherwise than behind a space, and take every word that is given by itself for one at the
    beginning. Raises `EnvironmentMismatch` where nothing helps.
    """
    wanted = [_last_piece(tokenizer, f"the {word}", is_split=False) for word in _PROBES]
    for before in ("", " "):
        given = [[f"{before}the", f"{before}{word}"] for word in _PROBES]
        if wanted == [_last_piece(tokenizer, words, is_split=True) for words in given]:
            return before
    raise EnvironmentMismatch(
        f"{place}: reads words that are given one by one otherwise than in a text ({_PROBES[1]!r}, "
        f"for one), so a model that was trained on texts would not know them; give a checkpoint "
        f"with another tokenizer"
    )


def _last_piece(tokenizer: Any, text: str | list[str], *, is_split: bool) -> list[int]:
    """Return the ids of the last word, that of three letters before it left out."""
    encoded = tokenizer(
        [text],
        is_split_into_words=is_split,
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    words = encoded.word_ids(0)
    ids: list[int] = encoded["input_ids"][0]
    if is_split:
        return [token for token, word in zip(ids, words, strict=True) if word == 1]
    # A piece that is the space alone stands before its word.
    offsets = encoded["offset_mapping"][0]
    return [token for token, (_, end) in zip(ids, offsets, strict=True) if end > len("the")]


@dataclass(frozen=True)
class _Encoded:
    """A document with all model inputs of it."""

    document: Document
    inputs: Mapping[str, NDArray[np.int64]]

    def row(self, window: Window) -> dict[str, NDArray[np.int64]]:
        """Return the inputs of one window, with the special tokens around it."""
        kept = np.ones(len(self.inputs["input_ids"]), dtype=bool)
        begin = self.document.begin
        kept[begin : begin + len(self.document)] = False
        kept[begin + window.start : begin + window.end] = True
        return {name: value[kept] for name, value in self.inputs.items()}


def _read(tokenizer: Any, examples: Sequence[Example]) -> list[_Encoded]:
    """Return the documents whole, however long."""
    found: dict[int, _Encoded] = {}
    for given in _given_alike(tokenizer, examples):
        encoded = given.tokenized(tokenizer, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        for row, at in enumerate(given.places):
            inputs = {name: np.array(rows[row], np.int64) for name, rows in encoded.items()}
            pieces = _Pieces(encoded.sequence_ids(row), encoded.word_ids(row), offsets[row])
            found[at] = _document(tokenizer, examples[at], inputs, pieces, len(given.before))
    return [found[at] for at in range(len(examples))]


@dataclass(frozen=True)
class _Given:
    """Documents that are given in one way, as texts or word by word, and their places."""

    places: list[int]
    documents: list[str | list[str]]
    is_split: bool
    before: str  # what stands before each word

    def tokenized(self, tokenizer: Any, **asked: bool) -> Any:
        """Return what a tokenizer says of them, whole."""
        return tokenizer(
            self.documents,
            is_split_into_words=self.is_split,
            verbose=False,  # that one is longer than the model reads is no news
            **asked,
        )


def _given_alike(tokenizer: Any, examples: Sequence[Example]) -> Iterator[_Given]:
    for is_split in (False, True):
        places = [at for at, item in enumerate(examples) if isinstance(item, Words) == is_split]
        if places:
            before = before_words(tokenizer) if is_split else ""
            yield _Given(places, [_given(examples[at], before) for at in places], is_split, before)


class _Pieces(NamedTuple):
    """What a tokenizer says of each token of a row, special tokens included."""

    sequences: list[int | None]  # None: a special token
    words: list[int | None]
    offsets: list[tuple[int, int]]


def _given(example: Example, before: str) -> str | list[str]:
    if isinstance(example, Words):
        return [f"{before}{word}" for word in example.words]
    return texts_of(example)[0]


def _document(
    tokenizer: Any,
    example: Example,
    inputs: Mapping[str, NDArray[np.int64]],
    pieces: _Pieces,
    before: int,
) -> _Encoded:
    """Return one document; words were given behind `before` characters."""
    own = np.array([sequence is not None for sequence in pieces.sequences], dtype=bool)
    words = np.array([NO_WORD if word is None else word for word in pieces.words], dtype=np.int64)[
        own
    ]
    offsets = np.array(pieces.offsets, dtype=np.int64).reshape(-1, 2)[own]
    num_words = int(words.max(initial=NO_WORD)) + 1
    if isinstance(example, Words):
        offsets, num_words = _in_text(offsets, words, example.words, before), len(example.words)
    begin = int(own.argmax()) if own.any() else len(own)
    document = Document(
        text=texts_of(example)[0],
        ids=inputs["input_ids"][own],
        words=words,
        offsets=offsets,
        num_words=num_words,
        is_split=isinstance(example, Words),
        begin=begin,
        tokenizer=tokenizer,
    )
    return _Encoded(document, inputs)


def _in_text(
    offsets: NDArray[np.int64],
    words: NDArray[np.int64],
    given: Sequence[str],
    before: int,
) -> NDArray[np.int64]:
    """Return offsets in words, behind so many characters, as those in the joined words."""
    lengths = np.array([len(word) for word in given], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    inside = np.clip(offsets - before, 0, lengths[words][:, None])
    return np.asarray(inside + starts[words][:, None])


def encode_documents(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int | None
) -> DocumentBatch:
    """Turn documents into one padded batch, of at most `max_tokens` tokens a row.

    Raises `RecipeError` where special tokens leave no room, and for a document that gives no token
    at all.
    """
    rows: list[Row] = []
    values: list[dict[str, NDArray[np.int64]]] = []
    read = _read(tokenizer, examples)
    for number, encoded in enumerate(read):
        document, num_tokens = encoded.document, len(encoded.inputs["input_ids"])
        special = num_tokens - len(document)
        room = len(document) if max_tokens is None else max_tokens - special
        if len(document) and room < 1:
            raise RecipeError(
                f"data.max_length or export.max_length: of {max_tokens} tokens, {special} are "
                f"special ones, which leaves none for the text; set {special + 1} or more"
            )
        if num_tokens == 0:
            raise RecipeError(
                f"the text {show(document.text)} gives no token, so a model has nothing to read; "
                f"leave such texts out"
            )
        windows = windows_of(len(document), max(1, room))
        for window, taken in zip(windows, parts_of(windows, document.words), strict=True):
            rows.append(Row(number, window, taken, document.begin))
            values.append(encoded.row(window))
    return _padded(tokenizer, [encoded.document for encoded in read], rows, values)


def count_tokens(tokenizer: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
    """Return how many tokens each document has, special tokens included, in however many rows."""
    counts = np.zeros(len(examples), dtype=np.int64)
    for given in _given_alike(tokenizer, examples):
        encoded = given.tokenized(
            tokenizer, return_attention_mask=False, return_token_type_ids=False
        )
        counts[given.places] = [len(ids) for ids in encoded["input_ids"]]
    return counts


def _padded(
    tokenizer: Any,
    documents: Sequence[Document],
    rows: Sequence[Row],
    values: Sequence[Mapping[str, NDArray[np.int64]]],
) -> DocumentBatch:
    """Return rows of one length, padded on the side and with the ids that the tokenizer says."""
    if not rows:
        raise ValueError("a batch needs at least one document")
    length = max(len(value["input_ids"]) for value in values)
    fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    is_left = tokenizer.padding_side == "left"
    batch = DocumentBatch()
    for name in values[0]:
        batch[name] = np.full((len(values), length), fills.get(name, 0), dtype=np.int64)
        for row, value in enumerate(values):
            own = value[name]
            batch[name][row, length - len(own) if is_left else 0 :][: len(own)] = own
    batch.documents = tuple(documents)
    shifts = [length - len(value["input_ids"]) if is_left else 0 for value in values]
    batch.rows = tuple(
        Row(row.document, row.window, row.taken, row.column + shift)
        for row, shift in zip(rows, shifts, strict=True)
    )
    return batch


def of_documents(batch: DocumentBatch, array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return what a model gave for each token of each document: `(num_tokens, width)` for each."""
    found: list[list[NDArray[np.float32]]] = [[] for _ in batch.documents]
    for row, values in zip(batch.rows, array, strict=True):
        found[row.document].append(values[row.columns])
    return [np.concatenate(parts) for parts in found]
