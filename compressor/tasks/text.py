"""What every task on texts shares: the tokenizer, and how texts become tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.paths import require_plain_files
from compressor.runtime.given import given_texts
from compressor.runtime.texts import NO_LIMIT, encode_texts, first_text, require_tokens
from compressor.runtime.tokenizer import TOKENIZER, Tokenizer
from compressor.tasks.base import Batch, Task, Tokens
from compressor.tasks.examples import Example, texts_of
from compressor.tasks.hiding import (
    Hiding,
    Part,
    Piece,
    ReadText,
    chunks,
    hiding_id,
    hidings_of,
    joined,
)
from compressor.words import counted

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

_AT_ONCE = 4096  # texts that are tokenized together
_HIDDEN_AT_ONCE = 32  # rows with a piece hidden
# Of a tokenizer, what its own content does not say.
_SETTINGS = (
    "padding_side",
    "pad_token_id",
    "pad_token_type_id",
    "model_input_names",
    "truncation_side",
    "split_special_tokens",
)


class TextTask(Task):
    """Sequences are cut to `max_length` tokens and padded to the longest of their batch."""

    input_column: ClassVar[str] = "text"
    main_input: ClassVar[str] = "input_ids"
    preprocessor_name: ClassVar[str] = "tokenizer"
    reads_tokens: ClassVar[bool] = True
    # Whether `encode` gives one row of tokens for each example, which are then kept.
    keeps_tokens: ClassVar[bool] = False

    @classmethod
    def require_files(cls, directory: Path) -> None:
        """Raise `OSError` when there is no file that a tokenizer could be read from."""
        require_plain_files(directory)
        # Without these transformers makes a tokenizer with an empty vocabulary, and every word of
        # every text becomes the unknown token.
        if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
            raise FileNotFoundError(f"none of {', '.join(_TOKENIZER_FILES)} lies in {directory}")

    def load_preprocessor(self, directory: str | Path) -> Any:
        """Load the tokenizer; raises `OSError` when its files are missing."""
        from transformers import AutoTokenizer

        self.require_files(Path(directory))
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)

    def light_preprocessor(self, directory: Path) -> Any:
        """Return the tokenizer of a `tokenizer.json`; None without one."""
        if not (directory / TOKENIZER).is_file():
            return None
        limit = self.max_length or NO_LIMIT
        return Tokenizer.load(directory, cut=limit if self.cuts_texts else None)

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:
        """Return texts or pairs of texts."""
        return given_texts(value, pairs=pairs)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Tokenize texts or pairs of texts; arrays are int64 of shape `(batch, sequence)`."""
        limit = self._limit(preprocessor)
        return encode_texts(preprocessor, examples, padding=True, max_length=limit)

    def token_counts(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return how many tokens each example has before it is cut, special tokens included."""
        starts = range(0, len(examples), _AT_ONCE)
        return np.concatenate(
            [
                np.zeros(0, dtype=np.int64),
                *(
                    self.counted_at_once(preprocessor, examples[start : start + _AT_ONCE])
                    for start in starts
                ),
            ]
        )

    def counted_at_once(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return `token_counts` of some thousands of examples, which are tokenized together."""
        encoded = preprocessor(
            [first_text(item) for item in examples],
            _pairs(examples),
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # that it is longer than the model reads is the question
        )
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)

    def tokenizes(self, preprocessor: Any) -> str | None:
        """Return the tokenizer's own content and settings where tokens are kept.

        None of tokenizers in Python, which have no such content, and of that of a loaded artifact,
        which remembers by itself how its content was told to cut.
        """
        backend = getattr(preprocessor, "backend_tokenizer", None)
        if not self.keeps_tokens or backend is None or isinstance(preprocessor, Tokenizer):
            return None
        # What is set for one call and set anew by the next one.
        backend.no_truncation()
        backend.no_padding()
        own = {name: getattr(preprocessor, name, None) for name in _SETTINGS}
        kind = type(preprocessor)  # some do more than their content says
        return (
            f"{kind.__module__}.{kind.__qualname__} {backend.to_str()} {own} "
            f"{self._limit(preprocessor)}"
        )

    def tokens(self, preprocessor: Any, examples: Sequence[Example]) -> Tokens:
        """Return the tokens of each example, cut as `encode` cuts them; raises as it does."""
        limit = self._limit(preprocessor)
        found = _without_padding(preprocessor, examples, None)
        counts = np.array([len(ids) for ids in found["input_ids"]], dtype=np.int64)
        if len(long := np.flatnonzero(counts > limit).tolist()):
            cut = _without_padding(preprocessor, [examples[row] for row in long], limit)
            for name, rows in found.items():
                for row, values in zip(long, cut[name], strict=True):
                    rows[row] = values
        lengths = np.array([len(ids) for ids in found["input_ids"]], dtype=np.int64)
        require_tokens(lengths, examples)
        ids, types = found["input_ids"], found.get("token_type_ids")
        return Tokens(
            np.fromiter(chain.from_iterable(ids), dtype=np.int32),
            None if types is None else np.fromiter(chain.from_iterable(types), dtype=np.uint8),
            np.cumsum(lengths),
            counts,
        )

    def padded(self, preprocessor: Any, tokens: Tokens) -> Batch:
        """Return what a tokenizer makes of texts with these tokens, padded to the longest."""
        lengths = np.diff(tokens.ends, prepend=0)
        mask = np.arange(lengths.max()) < lengths[:, None]  # (batch, sequence)
        if preprocessor.padding_side == "left":
            mask = mask[:, ::-1]
        batch = {"input_ids": np.full(mask.shape, preprocessor.pad_token_id, dtype=np.int64)}
        batch["input_ids"][mask] = tokens.ids
        if tokens.types is not None:
            fill = preprocessor.pad_token_type_id
            batch["token_type_ids"] = np.full(mask.shape, fill, dtype=np.int64)
            batch["token_type_ids"][mask] = tokens.types
        if "attention_mask" in preprocessor.model_input_names:
            batch["attention_mask"] = mask.astype(np.int64)
        return batch

    def hidings(self, preprocessor: Any) -> tuple[Hiding, ...]:
        """Return a token in place of a piece or, where a text is one row of tokens, none."""
        return hidings_of(preprocessor, removes=self.keeps_tokens) if self.explains else ()

    def pieces(self, preprocessor: Any, example: Example, most: int) -> tuple[Part, ...]:
        """Return the characters of the tokens that are read; neighbours joined where too many."""
        return joined(self.read_text(preprocessor, example).pieces, most)

    def as_tokenized(self, preprocessor: Any, example: Example) -> Example:  # noqa: ARG002 - prompts
        """Return the text or pair of texts that the tokenizer is given for an example."""
        return example

    def read_text(self, preprocessor: Any, example: Example) -> ReadText:
        """Return the tokens of an example, cut as `encode` cuts them, with their characters."""
        given, own = texts_of(self.as_tokenized(preprocessor, example)), texts_of(example)
        limit = self._limit(preprocessor)
        cuts = self.cuts_texts and limit < NO_LIMIT
        encoded = preprocessor(
            [given[0]],
            [given[1]] if len(given) > 1 else None,
            truncation=cuts,
            max_length=limit if cuts else None,
            return_offsets_mapping=True,
            verbose=False,  # that it is longer than the model reads is no news
        )
        numbers = [-1 if number is None else number for number in encoded.sequence_ids(0)]
        texts = np.array(numbers, dtype=np.int64)
        offsets = np.array(encoded["offset_mapping"][0], dtype=np.int64).reshape(-1, 2)
        # A prompt stands before the only text, and none of its tokens are the example's own.
        prompt = len(given[0]) - len(own[0])
        texts = np.where((texts == 0) & (offsets[:, 1] <= prompt), -1, texts)
        offsets = np.maximum(0, offsets - np.where(texts == 0, prompt, 0)[:, None])
        types = encoded.get("token_type_ids")
        return ReadText(
            np.array(encoded["input_ids"][0], dtype=np.int64),
            None if types is None else np.array(types[0], dtype=np.int64),
            texts,
            offsets,
        )

    def with_hidden(
        self, preprocessor: Any, example: Example, pieces: Sequence[Part], hiding: Hiding
    ) -> Iterator[Batch]:
        """Yield rows of tokens in which those of one piece are replaced, or left out."""
        read = self.read_text(preprocessor, example)
        rows = [np.zeros(len(read.ids), dtype=np.bool_)]  # which tokens are hidden
        rows += [read.tokens_of(piece) for piece in pieces if isinstance(piece, Piece)]
        for part in chunks(len(rows), _HIDDEN_AT_ONCE):
            yield self.padded(
                preprocessor, _hidden(preprocessor, read, rows[part.start : part.stop], hiding)
            )

    def _limit(self, preprocessor: Any) -> int:
        return min(self.max_length or NO_LIMIT, int(preprocessor.model_max_length))

    def benchmark_batch(
        self,
        preprocessor: Any,
        examples: Sequence[Example],
        batch_size: int,
        sequence_length: int | None,
    ) -> Batch:
        """Join real texts until each row is `sequence_length` tokens long, and cut it there."""
        length = int(sequence_length or preprocessor.model_max_length)
        if length > int(preprocessor.model_max_length):
            raise RecipeError(
                f"benchmark.sequence_lengths: {counted(length, 'token')} are more than this model "
                f"reads; set {preprocessor.model_max_length} or less"
            )
        words = cycle(word for example in examples for word in first_text(example).split())
        # Every word gives at least one token, so `length` words fill a row.
        rows = [" ".join(islice(words, length)) for _ in range(batch_size)]
        return encode_texts(preprocessor, rows, padding="max_length", max_length=length)

    def dummy_example(self, length: int) -> Example:
        """Return a text of about `length` tokens for tokenizers that know the word `the`."""
        return " ".join(["the"] * max(1, length - 2))


def _hidden(
    preprocessor: Any, read: ReadText, rows: Sequence[NDArray[np.bool_]], hiding: Hiding
) -> Tokens:
    """Return the tokens of a text once for each of `rows`, with those hidden that it marks."""
    ids, types = [], []
    for hidden in rows:
        own, kept = read.ids.copy(), np.ones(len(hidden), dtype=np.bool_)
        if hiding == "removal":
            kept = ~hidden
        else:
            own[hidden] = hiding_id(preprocessor, hiding)
        if not kept.any():  # a text that is all one piece keeps a token to read
            kept[0] = True
        ids.append(own[kept])
        types.append(None if read.types is None else read.types[kept])
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    segments = [row.astype(np.uint8) for row in types if row is not None]
    return Tokens(
        np.concatenate(ids).astype(np.int32),
        np.concatenate(segments) if segments else None,
        np.cumsum(lengths),
        lengths,
    )


def _pairs(examples: Sequence[Example]) -> list[str] | None:
    """Return the second texts of pairs, None of single texts."""
    return [str(item[1]) for item in map(texts_of, examples) if len(item) > 1] or None


def _without_padding(
    preprocessor: Any, examples: Sequence[Example], max_length: int | None
) -> dict[str, list[list[int]]]:
    """Return ids and, where a model reads them, types of tokens, cut to `max_length`, if given."""
    encoded = preprocessor(
        [first_text(example) for example in examples],
        _pairs(examples),
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
        verbose=False,
    )
    return {
        name: list(encoded[name]) for name in ("input_ids", "token_type_ids") if name in encoded
    }
