"""Spans of a text from the logits of its tokens, as the pipeline of transformers makes them.

With `none` every token is given by itself. With `simple` neighbours of one kind are joined token by
token; with `first`, `average` and `max` the pieces of a word first agree on one tag: that of its
first piece, of the mean of their probabilities, or of the surest piece.

Ref: transformers 5.23, `TokenClassificationPipeline`, which knows B- and I- alone. Unlike it, tags
of other schemes and spellings are joined to one span too, and windows over a long document meet at
a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from .pieces import Document
from .probabilities import softmax
from .tags import NO_TAG, OUTSIDE, Tags

Aggregation = Literal["none", "simple", "first", "average", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = ("none", "simple", "first", "average", "max")


class Span(TypedDict):
    """A part of a text with its kind: the characters from `start` to `end` (not included).

    `score` is the mean probability of what it is made of. `word` is spelled by the tokenizer, which
    may have lowered cases. Of the strategy `none` it is one token, whose tag is `entity`, and whose
    place in the row of tokens is `index`; of the others it has an `entity_group`.
    """

    entity_group: NotRequired[str]
    entity: NotRequired[str]
    index: NotRequired[int]
    word: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """A token, or a word of several: its tag, how sure, how it is spelled, and its characters."""

    tag: str
    score: float
    word: str
    start: int
    end: int


def spans_of(
    document: Document, logits: NDArray[np.float32], tags: Tags, strategy: Aggregation
) -> list[Span]:
    """Return the spans of a document; `logits` has shape `(num_tokens, num_labels)`.

    Of a document that was given word by word, characters are those of its words with a space
    between them.
    """
    if len(document) == 0:
        return []
    probabilities = softmax(logits)
    names, is_piece = _spelled(document)
    tokens = [
        Part(tags.labels[int(row.argmax())], float(row.max()), name, int(start), int(end))
        for row, name, (start, end) in zip(probabilities, names, document.offsets, strict=True)
    ]
    if strategy == "none":
        return [
            Span(
                entity=token.tag,
                score=token.score,
                index=document.begin + place,
                word=token.word,
                start=token.start,
                end=token.end,
            )
            for place, token in enumerate(tokens)
            if token.tag != OUTSIDE
        ]
    if strategy != "simple":
        choose = _CHOICES[strategy]
        tokens = [
            _word(tokens[start:end], *choose(probabilities[start:end]), document, tags)
            for start, end in _runs(is_piece)
        ]
    groups = [_joined(parts, document, tags) for parts in grouped(tokens, tags)]
    return [span for span in groups if span["entity_group"] != OUTSIDE]


def kinds_of_words(
    words: Sequence[str], labels: Sequence[int], tags: Tags
) -> list[tuple[str, int, int]]:
    """Return kind, first and last character of the spans of words with these class ids.

    They are those that `spans_of` gives by the strategy `first` for the same words.
    """
    parts: list[Part] = []
    start = 0
    for word, label in zip(words, labels, strict=True):
        if label != NO_TAG:
            parts.append(Part(tags.labels[label], 1.0, word, start, start + len(word)))
        start += len(word) + 1
    return [
        (kind, group[0].start, group[-1].end)
        for group in grouped(parts, tags)
        if (kind := tags.spans[group[0].tag][1]) != OUTSIDE
    ]


def grouped(parts: Sequence[Part], tags: Tags) -> list[list[Part]]:
    """Return neighbours of one kind together; a part whose tag says so begins a new group."""
    groups: list[list[Part]] = []
    for part in parts:
        begins, kind = tags.spans[part.tag]
        if groups and not begins and kind == tags.spans[groups[-1][-1].tag][1]:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _spelled(document: Document) -> tuple[list[str], NDArray[np.bool_]]:
    """Return each token as the tokenizer calls it, and whether it goes on with a word.

    Words that were given are known. In a text the pipeline of transformers tells by the length of a
    token and of the characters that it stands for where pieces are marked, else by spaces.
    """
    tokenizer = document.tokenizer
    names: list[str] = tokenizer.convert_ids_to_tokens(document.ids.tolist())
    is_marked = bool(getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))
    goes_on = np.zeros(len(document), dtype=bool)
    for place, (start, end) in enumerate(document.offsets.tolist()):
        text = document.text[start:end]
        if is_marked:
            goes_on[place] = len(names[place]) != len(text)
        else:
            goes_on[place] = start > 0 and " " not in document.text[start - 1 : start + 1]
        if document.ids[place] == tokenizer.unk_token_id:
            names[place], goes_on[place] = text, False
    if document.is_split:
        goes_on[1:] = document.words[1:] == document.words[:-1]
    return names, goes_on


def _runs(goes_on: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield where each word begins and ends, in tokens; the first token always begins one."""
    starts = np.flatnonzero(~goes_on).tolist()
    starts = starts if starts and starts[0] == 0 else [0, *starts]
    yield from zip(starts, [*starts[1:], len(goes_on)], strict=True)


def _word(tokens: Sequence[Part], label: int, score: float, document: Document, tags: Tags) -> Part:
    word = document.spell([token.word for token in tokens])
    return Part(tags.labels[label], score, word, tokens[0].start, tokens[-1].end)


def _best(row: NDArray[np.float32]) -> tuple[int, float]:
    return int(row.argmax()), float(row.max())


# Of the probabilities of a word's pieces, shape (num_pieces, num_labels), to its label and score.
_CHOICES: dict[str, Callable[[NDArray[np.float32]], tuple[int, float]]] = {
    "first": lambda rows: _best(rows[0]),
    "average": lambda rows: _best(rows.mean(axis=0)),
    "max": lambda rows: _best(rows[rows.max(axis=1).argmax()]),
}


def _joined(parts: Sequence[Part], document: Document, tags: Tags) -> Span:
    return Span(
        entity_group=tags.spans[parts[0].tag][1],
        score=float(np.mean([part.score for part in parts])),
        # Words that are spelled already are joined as tokens are, as the pipeline does.
        word=document.spell([part.word for part in parts]),
        start=parts[0].start,
        end=parts[-1].end,
    )
