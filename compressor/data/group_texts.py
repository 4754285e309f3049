"""Which text a group of examples is told by: the query of candidates, the context of questions."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

from compressor.data.splits import Dataset
from compressor.tasks import texts_of

_KNOWN = "shared text"
_AT_ONCE = 4096  # rows that are read together


def shared_text(splits: Iterable[Dataset]) -> int | None:
    """Return the position of the only text that the examples of each group share.

    It is that of the first split that tells: by its columns, or by groups of several examples,
    which share one text and no more. None where no split does.
    """
    for split in splits:
        if split.groups is None:
            continue
        if split.group_text is not None:
            return split.group_text
        if _KNOWN not in split.known:
            split.known[_KNOWN] = _shared_text(split)
        place: int | None = split.known[_KNOWN]
        if place is not None:
            return place
    return None


def _shared_text(split: Dataset) -> int | None:
    assert split.groups is not None, "the caller asked"
    if len(split) == 0:
        return None
    num_groups, width = int(split.groups.max()) + 1, len(texts_of(split.examples[0]))
    # Numbers in arrays: of millions of groups objects would take some hundred bytes each.
    first = array("Q", bytes(8 * num_groups * width))
    is_known = bytearray(num_groups)
    shared = set(range(width))
    for start in range(0, len(split), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        groups = split.groups[some].tolist()
        for example, group in zip(split.examples[some], groups, strict=True):
            texts = array("Q", map(_number_of, texts_of(example)))
            own = slice(group * width, (group + 1) * width)
            if not is_known[group]:
                is_known[group] = True
                first[own] = texts
            known = first[own]
            shared = {place for place in shared if texts[place] == known[place]}
    return shared.pop() if len(shared) == 1 and sum(is_known) < len(split) else None


def _number_of(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
