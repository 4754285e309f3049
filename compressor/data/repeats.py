"""Says where rows that shall prove something are copies, of each other or of rows read before.

A bound on what was lost takes rows as draws of their own that nothing has read. Six hundred rows
that hold thirty texts say as much as thirty, and rows that the gates or a training have read say
little of others. Copies by themselves are no fault: of messages as they come in, some come in
often, among the rows to prove by and those of a training alike, and each is a draw of its own.
Such a file has more inputs that come once than inputs that come again; one whose rows were drawn
several times has not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compressor.data.splits import Dataset
from compressor.tasks import Example, identity_of, texts_of
from compressor.words import counted, verb_for

_MOST_AGAIN = 0.5  # of the different inputs, that come more than once
_MOST_SHARED = 0.5  # of the rows, that another split holds
_KNOWN = "inputs"


def repeated(split: Dataset, others: Mapping[str, Dataset]) -> str | None:
    """Return why the rows of a certification split are too few of their own; None where they do.

    `others` are the splits by name that a run has read before. What is compared is what a model
    reads: of candidates the query, of questions the context, of queries and documents the query, of
    graded pairs both texts.
    Letter case and spaces do not count.
    """
    own = _inputs(split)
    inputs, counts = np.unique(own, return_counts=True)
    num, what = len(own), _unit(split)
    if int(np.sum(counts > 1)) > _MOST_AGAIN * len(inputs):
        return (
            f"{counted(num, *what)} {verb_for(num, 'holds', 'hold')} {len(inputs):,} different "
            f"inputs, and a copy proves nothing that the first did not; keep one of each"
        )
    for name, other in others.items():
        shared = int(np.isin(own, _inputs(other)).sum())
        if shared > _MOST_SHARED * num:
            return (
                f"{shared:,} of {counted(num, *what)} {verb_for(shared, 'stands', 'stand')} in the "
                f"{name} split too, and what a run has read before proves nothing; give others, or "
                f"remove these from one of the two"
            )
    return None


def _unit(split: Dataset) -> tuple[str, str]:
    is_query = split.groups is not None or split.num_judged is not None
    return ("query", "queries") if is_query else ("row", "rows")


def _inputs(split: Dataset) -> NDArray[np.uint64]:
    """Return a number for each unit that is the same for equal inputs alone, as good as surely."""
    if _KNOWN not in split.known:
        split.known[_KNOWN] = np.fromiter(
            (int.from_bytes(digest[:8], "big") for digest in _digests(split)), dtype=np.uint64
        )
    found: NDArray[np.uint64] = split.known[_KNOWN]
    return found


def _digests(split: Dataset) -> Iterator[bytes]:
    if split.groups is not None:
        yield from _digests_of_groups(split.examples, split.groups)
        return
    rows = range(len(split) if split.num_judged is None else split.num_judged)
    if split.grades is not None:  # texts that were read as pairs
        for row in rows[::2]:
            yield _digest(*(split.examples[row], split.examples[row + 1]))
        return
    for row in rows:
        yield _digest(split.examples[row])


def _digests_of_groups(examples: Sequence[Example], groups: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield what stands for each group: the text that its examples share.

    That is the query of candidates, or the context of questions. Where they share no single text,
    as where each group has one example, all that it reads.
    """
    first: dict[int, list[bytes]] = {}
    whole: dict[int, bytes] = {}
    shares: list[bool] = []
    for example, group in zip(examples, groups.tolist(), strict=True):
        texts = [_digest(text) for text in texts_of(example)]
        if group not in first:
            first[group] = texts
            shares = shares or [True] * len(texts)
        shares = [
            shared and own == other
            for shared, own, other in zip(shares, texts, first[group], strict=True)
        ]
        whole[group] = hashlib.sha256(whole.get(group, b"") + b"".join(texts)).digest()
    if sum(shares) == 1:
        yield from (texts[shares.index(True)] for texts in first.values())
    else:
        yield from whole.values()


def _digest(*examples: Example) -> bytes:
    digest = hashlib.sha256()
    for example in examples:
        if (identity := identity_of(example)) is not None:
            digest.update(identity)
            continue
        for text in texts_of(example):
            content = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
            digest.update(f"text{len(content)}:".encode())
            digest.update(content)
    return digest.digest()
