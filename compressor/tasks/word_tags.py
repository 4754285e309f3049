"""What taggers give for documents: logits of tokens, and the tags of words that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from compressor.runtime.pieces import Document
from compressor.runtime.tags import NO_TAG
from compressor.tasks.outputs import Outputs, Positions

DOCUMENTS_AT_ONCE = 4096  # whose tags or entities are taken apart in memory together


@dataclass(frozen=True)
class TokenLogits(Outputs):
    """Logits of the tokens of documents: `(num_tokens, num_labels)` for each of `documents`."""

    documents: tuple[Document, ...]
    tokens: tuple[NDArray[np.float32], ...]

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.documents)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the documents of all parts, one after the other."""
        if not parts:
            raise ValueError("there is nothing to join")
        return cls(
            tuple(item for part in parts for item in part.documents),
            tuple(item for part in parts for item in part.tokens),
        )

    def select(self, positions: Positions) -> Self:
        """Return the documents at `positions`, in that order."""
        return type(self)(
            tuple(self.documents[place] for place in positions),
            tuple(self.tokens[place] for place in positions),
        )

    @cached_property
    def _rows(self) -> list[NDArray[np.float32]]:
        found = []
        for document, logits in zip(self.documents, self.tokens, strict=True):
            first = document.first_pieces
            words = np.zeros((len(first), logits.shape[1]), dtype=np.float32)
            words[first >= 0] = logits[first[first >= 0]]
            found.append(words)
        return found

    def per_example(self) -> list[NDArray[np.float32]]:
        """Return the logits of each document's words, `(num_words, num_labels)`.

        They are those of the first token of each word, and 0 for a word that gives no token.
        """
        return self._rows

    @property
    def numbers(self) -> NDArray[np.float32]:
        """Return the logits of the words of all documents, shape `(num_words, num_labels)`."""
        return np.concatenate(self._rows)

    @cached_property
    def tags(self) -> list[NDArray[np.int64]]:
        """Return the class id of each document's words, `NO_TAG` for one that gives no token."""
        return [
            np.where(document.first_pieces >= 0, row.argmax(axis=1), NO_TAG)
            for document, row in zip(self.documents, self._rows, strict=True)
        ]

    def without_logits(self) -> WordTags:
        """Return the tags alone, some bytes a document instead of some thousand."""
        num_labels = self.tokens[0].shape[1] if self.tokens else 1
        dtype = np.min_scalar_type(-num_labels)
        tags = DocumentTags.of([document.astype(dtype) for document in self.tags])
        finite = np.array([np.isfinite(row).all() for row in self._rows], dtype=bool)
        return WordTags(tags, finite)


@dataclass(frozen=True)
class DocumentTags(Sequence[NDArray[Any]]):
    """The class ids of the words of documents, one after the other in an array, read as one each.

    `flat` has shape `(num_words,)`, of any type of integers; `lengths`, `(num_documents,)`, are the
    numbers of words.
    """

    flat: NDArray[Any]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Sequence[NDArray[Any]]) -> Self:
        """Return the tags of one or more documents."""
        lengths = np.array([len(document) for document in documents], dtype=np.int64)
        return cls(np.concatenate(documents), lengths)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.lengths)

    @overload
    def __getitem__(self, place: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> NDArray[Any] | Self:
        """Return the tags of a document, or those of neighbours."""
        ends, lengths = self._ends[place], self.lengths[place]
        if not isinstance(place, slice):
            return self.flat[ends - lengths : ends]
        assert place.step in (None, 1), "documents in a row"
        if len(ends) == 0:
            return type(self)(self.flat[:0], lengths)
        return type(self)(self.flat[ends[0] - lengths[0] : ends[-1]], lengths)

    def select(self, positions: Positions) -> Self:
        """Return the tags of the documents at `positions`, in that order."""
        chosen = np.asarray(positions, dtype=np.int64)
        lengths = self.lengths[chosen]
        flat = np.empty(int(lengths.sum()), self.flat.dtype)
        filled = 0
        for start in range(0, len(chosen), DOCUMENTS_AT_ONCE):
            parts = [self[place] for place in chosen[start : start + DOCUMENTS_AT_ONCE].tolist()]
            words = np.concatenate(parts)
            flat[filled : filled + len(words)] = words
            filled += len(words)
        return type(self)(flat, lengths)


@dataclass(frozen=True)
class WordTags(Outputs):
    """The tags that documents got, all that a score reads of their logits.

    `finite`, shape `(num_documents,)`, says of which documents all words' logits were finite.
    """

    tags: DocumentTags
    finite: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.tags)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the documents of all parts, one after the other."""
        flat, lengths = (
            np.concatenate([getattr(part.tags, name) for part in parts])
            for name in ("flat", "lengths")
        )
        return cls(DocumentTags(flat, lengths), np.concatenate([part.finite for part in parts]))

    def select(self, positions: Positions) -> Self:
        """Return the documents at `positions`, in that order."""
        chosen = np.asarray(positions, dtype=np.int64)
        return type(self)(self.tags.select(chosen), self.finite[chosen])

    @property
    def numbers(self) -> NDArray[np.float32]:
        """Return the class ids of all words, NaN in documents that are not finite, `(words, 1)`."""
        finite = np.repeat(self.finite, self.tags.lengths)
        return np.where(finite, self.tags.flat, np.nan).astype(np.float32)[:, None]

    def per_example(self) -> list[NDArray[np.float32]]:
        """Return the numbers of each document, shape `(num_words, 1)`."""
        return np.split(self.numbers, np.cumsum(self.tags.lengths)[:-1])

    def first_not_finite(self) -> int | None:
        """Return the first document of which a logit is NaN or infinite, None where none is."""
        return None if self.finite.all() else int(self.finite.argmin())
