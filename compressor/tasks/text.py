"""What every task on texts shares: the tokenizer, and how texts become tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.paths import require_plain_files
from compressor.runtime.given import given_texts
from compressor.runtime.texts import NO_LIMIT, encode_texts, first_text
from compressor.tasks.base import Batch, Task
from compressor.tasks.examples import Example, texts_of
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


class TextTask(Task):
    """Sequences are cut to `max_length` tokens and padded to the longest of their batch."""

    input_column: ClassVar[str] = "text"
    main_input: ClassVar[str] = "input_ids"
    preprocessor_name: ClassVar[str] = "tokenizer"
    reads_tokens: ClassVar[bool] = True

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

    def given(self, value: Any, *, pairs: bool | None = None) -> Sequence[Example]:
        """Return texts or pairs of texts."""
        return given_texts(value, pairs=pairs)

    def encode(self, preprocessor: Any, examples: Sequence[Example]) -> Batch:
        """Tokenize texts or pairs of texts; arrays are int64 of shape `(batch, sequence)`."""
        limit = min(self.max_length or NO_LIMIT, int(preprocessor.model_max_length))
        return encode_texts(preprocessor, examples, padding=True, max_length=limit)

    def token_counts(self, preprocessor: Any, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return how many tokens each example has before it is cut, special tokens included."""
        seconds = [str(item[1]) for item in map(texts_of, examples) if len(item) > 1] or None
        encoded = preprocessor(
            [first_text(item) for item in examples],
            seconds,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # that it is longer than the model reads is the question
        )
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)

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
