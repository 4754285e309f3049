"""Which text a group of examples is told by: the query of candidates, the context of questions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from compressor.data.splits import Dataset
from compressor.tasks import texts_of

_KNOWN = "shared text"


def shared_text(splits: Iterable[Dataset]) -> int | None:
    """Return the position of the only text that the examples of each group share.

    It is that of the first split that tells: one whose groups have several examples, which share
    one text and no more. None where no split does.
    """
    for split in splits:
        if split.groups is None:
            continue
        if _KNOWN not in split.known:
            split.known[_KNOWN] = _shared_text(split)
        place: int | None = split.known[_KNOWN]
        if place is not None:
            return place
    return None


def _shared_text(split: Dataset) -> int | None:
    assert split.groups is not None, "the caller asked"
    first: dict[int, tuple[bytes, ...]] = {}
    shared: set[int] = set()
    for example, group in zip(split.examples, split.groups.tolist(), strict=True):
        texts = tuple(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for text in texts_of(example)
        )
        if not first:
            shared = set(range(len(texts)))
        known = first.setdefault(group, texts)
        shared = {place for place in shared if texts[place] == known[place]}
    return shared.pop() if len(shared) == 1 and len(first) < len(split) else None
