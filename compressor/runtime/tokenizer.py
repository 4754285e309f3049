"""The tokenizer of an artifact, by the library `tokenizers` alone.

It is called as a tokenizer of transformers is, so that everything which reads texts works with
either. Unlike one of those it is never changed by a call: threads may share it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray

from .errors import EnvironmentMismatch
from .files import LARGEST_JSON, read_object, unreadable
from .texts import NO_LIMIT

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_SIDES = ("left", "right")
_SPACES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)  # that transformers takes out of decoded text, where the configuration says so


T = TypeVar("T")


class Encoded(dict[str, Any]):
    """Model inputs by name, and of each row which word and which text a token is a piece of."""

    rows: list[tokenizers.Encoding]
    width: int | None = None  # that rows were padded to, None where they were not
    side: str = "right"  # that padding stands on

    def word_ids(self, row: int) -> list[int | None]:
        """Return the word of each token of a row, None for special tokens and padding."""
        return self.padded(self.rows[row].word_ids, None)

    def sequence_ids(self, row: int) -> list[int | None]:
        """Return of which text of a pair each token is, None for special tokens and padding."""
        return self.padded(self.rows[row].sequence_ids, None)

    def offsets(self, row: int) -> list[tuple[int, int]]:
        """Return where each token begins and ends in its text, twice 0 where it is in none."""
        return self.padded(self.rows[row].offsets, (0, 0))

    def padded(self, values: list[T], fill: T) -> list[T]:
        """Return what is known of the tokens of a row, as long as rows are."""
        more = [fill] * (0 if self.width is None else self.width - len(values))
        return [*more, *values] if self.side == "left" else [*values, *more]


class Tokenizer:
    """A `tokenizer.json` with what `tokenizer_config.json` says of lengths, padding and tokens."""

    is_fast = True

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any],
        place: str,
        cut: int | None = None,
    ) -> None:
        self.init_kwargs = config
        self.place = place
        limit = config.get("model_max_length")
        # What transformers writes for no limit is 1e30.
        is_limit = isinstance(limit, int | float) and 0 < limit < NO_LIMIT
        self.model_max_length = int(limit or 0) if is_limit else NO_LIMIT
        self.padding_side = self._side("padding_side")
        self.truncation_side = self._side("truncation_side")
        self.pad_token_type_id = int(config.get("pad_token_type_id", 0))
        self.backend_tokenizer = backend
        backend.no_padding()
        if cut is not None:
            shorter = min(cut, self.model_max_length)
            cut = None if shorter >= NO_LIMIT else shorter
        self._cut(backend, cut)
        if config.get("split_special_tokens"):
            backend.encode_special_tokens = True
        self.pad_token, self.pad_token_id = self._special("pad_token")
        self.unk_token, self.unk_token_id = self._special("unk_token")
        self.cls_token, self.cls_token_id = self._special("cls_token")
        self.mask_token, self.mask_token_id = self._special("mask_token")
        # One for each length that texts are cut to: a setting of the library is of the whole.
        self._cutting: dict[int | None, tokenizers.Tokenizer] = {cut: backend}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, directory: Path, *, cut: int | None = None) -> Tokenizer:
        """Return the tokenizer whose files lie in `directory`.

        Texts that are cut to `cut` tokens, or to its own limit where that is less, cost no second
        copy of it in memory; None: texts that are not cut.
        Raises `EnvironmentMismatch` where they do not, or hold what no tokenizer can be.
        """
        path = directory / TOKENIZER
        if (reason := unreadable(path)) is not None:
            raise EnvironmentMismatch(
                f"{path}: {reason}, so there is no tokenizer that can be read without the package "
                f"transformers; save the checkpoint with a fast tokenizer, and make the artifact "
                f"again"
            )
        settings = directory / TOKENIZER_CONFIG
        is_there = unreadable(settings, largest=LARGEST_JSON) is None
        config = read_object(settings) if is_there else {}
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise EnvironmentMismatch(
                f"{path}: cannot be read by tokenizers {tokenizers.__version__} ({error}); copy "
                f"the artifact again, or install a newer tokenizers"
            ) from error
        return cls(backend, config, str(directory), cut)

    def __call__(
        self,
        texts: Any,
        seconds: Any = None,
        *,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        return_offsets_mapping: bool = False,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = True,
        verbose: bool = True,  # noqa: ARG002 - it never says anything
    ) -> Encoded:
        """Return the model inputs of texts, of pairs of texts, or of lists of words.

        They are lists of integers, or with `return_tensors` int64 arrays of shape
        `(batch, tokens)`. `padding` is True for the longest of a batch, or `max_length`.
        """
        is_one = isinstance(texts, str)
        given = [texts] if is_one else list(texts)
        if seconds is not None:
            given = list(zip(given, [seconds] if is_one else seconds, strict=True))
        backend = self._cut_at(max_length if truncation else None)
        rows = backend.encode_batch(
            given, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
        )
        found = Encoded(input_ids=[row.ids for row in rows])
        found.rows = rows
        if return_token_type_ids:
            found["token_type_ids"] = [row.type_ids for row in rows]
        if return_attention_mask:
            found["attention_mask"] = [row.attention_mask for row in rows]
        if padding:
            length = max_length if padding == "max_length" else None
            found.update(self.padded(found, length=length))
            found.width, found.side = found["input_ids"].shape[1], self.padding_side
            if return_tensors is None:
                found.update({name: value.tolist() for name, value in found.items()})
        if return_offsets_mapping:
            found["offset_mapping"] = [found.offsets(row) for row in range(len(rows))]
        if is_one and return_tensors is None:
            found.update({name: value[0] for name, value in found.items()})
        return found

    def padded(
        self, rows: dict[str, list[list[int]]], *, length: int | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Return rows of token ids, types and masks as arrays, padded to the longest or `length`.

        The shape is `(batch, tokens)`; no row is longer than `length`.
        """
        lengths = [len(row) for row in rows["input_ids"]]
        width = max(lengths, default=0) if length is None else length
        fills = {"input_ids": self.pad_token_id, "token_type_ids": self.pad_token_type_id}
        if self.pad_token_id is None and any(own < width for own in lengths):
            raise EnvironmentMismatch(
                f"{self.place}: {TOKENIZER_CONFIG} names no pad_token, so texts of different "
                f"length cannot be read together; give one text at a time"
            )
        found = {}
        for name, values in rows.items():
            array = np.full((len(values), width), fills.get(name, 0) or 0, dtype=np.int64)
            for place, value in enumerate(values):
                start = width - len(value) if self.padding_side == "left" else 0
                array[place, start : start + len(value)] = value
            found[name] = array
        return found

    def __len__(self) -> int:
        """Return how many tokens there are, added ones included."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of the tokens that are no part of a text."""
        named = [key for key in self.init_kwargs if key.endswith("_token")]
        tokens = [self._special(key)[0] for key in named]
        more = self.init_kwargs.get("extra_special_tokens") or []
        tokens += list(more.values()) if isinstance(more, dict) else list(more)
        known = (self.backend_tokenizer.token_to_id(_content(token) or "") for token in tokens)
        return sorted({token for token in known if token is not None})

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of all tokens."""
        found: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return found

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens stand around a text, or a pair of texts."""
        return int(self.backend_tokenizer.num_special_tokens_to_add(pair))

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without special ones."""
        tokens: list[str] = self.backend_tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Return what the tokens are called."""
        found: list[Any] = [self.backend_tokenizer.id_to_token(int(token)) for token in ids]
        return found

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Return tokens as text."""
        decoder = self.backend_tokenizer.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))

    def decode(self, ids: Any, *, skip_special_tokens: bool = False) -> str:
        """Return ids as text, with the spaces that transformers leaves."""
        tokens = [int(token) for token in ids]
        text = str(self.backend_tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens))
        is_bpe = type(self.backend_tokenizer.model).__name__ == "BPE"
        if self.init_kwargs.get("clean_up_tokenization_spaces") and not is_bpe:
            for spaced, plain in _SPACES:
                text = text.replace(spaced, plain)
        return text

    def _side(self, key: str) -> str:
        side = self.init_kwargs.get(key, "right")
        if side not in _SIDES:
            raise EnvironmentMismatch(
                f"{self.place}/{TOKENIZER_CONFIG}: {key} is {side!r}; allowed are left and right"
            )
        return str(side)

    def _special(self, key: str) -> tuple[str | None, int | None]:
        token = _content(self.init_kwargs.get(key))
        return token, None if token is None else self.backend_tokenizer.token_to_id(token)

    def _cut(self, backend: tokenizers.Tokenizer, length: int | None) -> None:
        if length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(length, direction=self.truncation_side)

    def _cut_at(self, length: int | None) -> tokenizers.Tokenizer:
        """Return the library's tokenizer that cuts texts there."""
        if length not in self._cutting:
            with self._lock:
                if length not in self._cutting:
                    made = tokenizers.Tokenizer.from_str(self.backend_tokenizer.to_str())
                    made.encode_special_tokens = self.backend_tokenizer.encode_special_tokens
                    self._cut(made, length)
                    self._cutting[length] = made
        return self._cutting[length]


def _content(token: object) -> str | None:
    """Return a token of a configuration, where it is a text or an object with one."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
