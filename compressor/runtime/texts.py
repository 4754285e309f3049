"""Texts, and pairs of texts, as model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RecipeError
from .examples import Example, texts_of
from .words import show

NO_LIMIT = 2**31  # what a tokenizer says that was saved without one is far more


def encode_texts(
    tokenizer: Any, examples: Sequence[Example], *, padding: bool | str, max_length: int
) -> dict[str, NDArray[np.int64]]:
    """Turn texts or pairs of texts into model inputs, int64 of shape `(batch, sequence)`.

    `padding` is as for a tokenizer of transformers. Raises `ValueError` for a batch of both, and
    `RecipeError` for a text that gives no token.
    """
    pairs = [example for example in examples if isinstance(example, tuple)]
    if pairs and len(pairs) != len(examples):
        raise ValueError("a batch holds either texts or pairs of texts, not both")
    encoded = tokenizer(
        [first_text(example) for example in examples],
        [str(pair[1]) for pair in pairs] if pairs else None,
        padding=padding,
        truncation=max_length < NO_LIMIT,
        max_length=max_length if max_length < NO_LIMIT else None,
        return_tensors="np",
    )
    batch = {name: np.asarray(value, dtype=np.int64) for name, value in encoded.items()}
    ids = batch["input_ids"]
    require_tokens(batch.get("attention_mask", np.ones_like(ids)).sum(axis=1), examples)
    return batch


def require_tokens(counts: Sequence[int] | NDArray[np.int64], examples: Sequence[Example]) -> None:
    """Raise `RecipeError` for a row without a token, of which a model computes something anyway."""
    for count, example in zip(counts, examples, strict=True):
        if count == 0:
            raise RecipeError(
                f"the text {show(first_text(example))} gives no token, so a model has nothing to "
                f"read; leave such texts out"
            )


def first_text(example: Example) -> str:
    """Return the only text of an example, or the first of a pair."""
    return str(texts_of(example)[0])
