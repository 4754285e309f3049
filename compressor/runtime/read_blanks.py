"""Tokens for the places of a text where a mask token stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EnvironmentMismatch
from .examples import Example, texts_of
from .filling import fill, likeliest, require_mask, rows_together
from .given import given_texts
from .lengths import by_length
from .readers import TextReader
from .session import Graph
from .texts import require_tokens


class FillReader(TextReader):
    """Tokens for the places of a text where a mask token stands."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        super().__init__(directory, manifest)
        if self.tokenizer.mask_token_id is None:
            raise EnvironmentMismatch(
                f"{directory}: its tokenizer names no mask_token; copy the artifact again"
            )

    def given(self, value: Any) -> Sequence[Example]:
        """Return texts."""
        return given_texts(value, pairs=False)

    def predictions(
        self, graph: Graph, examples: Sequence[Example], batch_size: int
    ) -> Sequence[Any]:
        """Return the five likeliest tokens of each text's mask token, of several a list of each."""
        texts = [texts_of(example)[0] for example in examples]
        encoded = self.tokenizer(
            texts, truncation=self.max_length is not None, max_length=self.max_length
        )
        all_ids = [np.array(row, dtype=np.int64) for row in encoded["input_ids"]]
        require_tokens([len(ids) for ids in all_ids], texts)
        masks = [ids == self.tokenizer.mask_token_id for ids in all_ids]
        for text, is_mask in zip(texts, masks, strict=True):
            require_mask(self.tokenizer, text, is_mask)
        longest = max(map(len, all_ids))
        together = min(batch_size, rows_together(longest, len(self.tokenizer)))
        found: list[Any] = [None] * len(examples)
        for places in by_length([len(ids) for ids in all_ids], together):
            own = {name: [rows[place] for place in places] for name, rows in encoded.items()}
            batch = self.tokenizer.padded(own)
            logits = graph(batch)
            kept = batch["attention_mask"] != 0
            for row, place in enumerate(places):
                at = np.flatnonzero(masks[place])
                top, scores, _ = likeliest(logits[row, kept[row]][at])
                filled = fill(self.tokenizer, all_ids[place], at, top, scores)
                found[place] = filled[0] if len(at) == 1 else filled
        return found
