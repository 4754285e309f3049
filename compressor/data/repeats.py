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
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from compressor.data.group_texts import shared_text
from compressor.data.splits import Dataset
from compressor.tasks import Example, identity_of, texts_of
from compressor.words import counted, verb_for

_MOST_AGAIN = 0.5  # of the different inputs, that come more than once
_MOST_SHARED = 0.5  # of the rows, that another split holds


def repeated(split: Dataset, others: Mapping[str, Dataset]) -> str | None:
    """Return why the rows of a certification split are too few of their own; None where they do.

    `others` are the splits by name that a run has read before. What is compared is what a model
    reads: of candidates the query, of questions the context, of queries and documents the query, of
    graded pairs both texts. Letter case and spaces do not count.
    """
    place = shared_text((split, *others.values()))
    own = _inputs(split, place)
    inputs, counts = np.unique(own, return_counts=True)
    num, what = len(own), _unit(split)
    if int(np.sum(counts > 1)) > _MOST_AGAIN * len(inputs):
        return (
            f"{counted(num, *what)} {verb_for(num, 'holds', 'hold')} {len(inputs):,} different "
            f"inputs, and a copy proves nothing that the first did not; keep one of each"
        )
    for name, other in others.items():
        shared = int(np.isin(own, _inputs(other, place)).sum())
        if shared > _MOST_SHARED * num:
            return (
                f"{shared:,} of {counted(num, *what)} {verb_for(shared, 'stands', 'stand')} in the "
                f"{name} split too, and what a run has read before proves nothing; give others, or "
                f"remove these from one of the two"
            )
    return None


def _unit(split: Dataset) -> tuple[str, str]:
    if split.groups is not None and split.group_text == 1:
        return "context", "contexts"
    is_query = split.groups is not None or split.num_judged is not None
    return ("query", "queries") if is_query else ("row", "rows")


def _inputs(split: Dataset, place: int | None) -> NDArray[np.uint64]:
    """Return a number for each unit that is the same for equal inputs alone, as good as surely."""
    digests = _digests(split, place)
    return np.fromiter((int.from_bytes(digest[:8], "big") for digest in digests), dtype=np.uint64)


def _digests(split: Dataset, place: int | None) -> Iterator[bytes]:
    """Yield what stands for each unit; `place` is the text that a group is told by, if one is."""
    if split.groups is not None:
        yield from _digests_of_groups(split.examples, split.groups, place)
        return
    examples = islice(split.examples, split.num_judged)
    if split.grades is not None:  # texts that were read as pairs
        yield from (_digest(*pair) for pair in zip(examples, examples, strict=True))
        return
    yield from map(_digest, examples)


def _digests_of_groups(
    examples: Sequence[Example], groups: NDArray[np.int64], place: int | None
) -> Iterator[bytes]:
    """Yield the text of each group that it is told by; where none is, all that it reads."""
    if place is not None:
        is_known = bytearray(int(groups.max(initial=-1)) + 1)
        for example, group in zip(examples, groups, strict=True):
            if not is_known[group]:
                is_known[group] = True
                yield _digest(texts_of(example)[place])
        return
    found: dict[int, bytes] = {}
    for example, group in zip(examples, groups.tolist(), strict=True):
        found[group] = hashlib.sha256(found.get(group, b"") + _digest(example)).digest()
    yield from found.values()


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
