"""The vocabulary in a tokenizer's file, read in a moment where loading the tokenizer takes seconds.

Two models whose vocabularies differ read a text as other numbers, so that what they compute of one
token cannot be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from compressor.words import counted

TOKENIZER = "tokenizer.json"


def other_vocabulary(own: Mapping[str, int], other: Mapping[str, int]) -> str | None:
    """Return how the vocabulary of a teacher differs from the student's; None where it does not."""
    if own == other:
        return None
    entries = counted(len(other), "entry", "entries")
    if len(other) != len(own):
        return f"it has {entries}, the student's {len(own):,}"
    alike = len(other.items() & own.items())
    return f"of {entries} in both, {alike:,} are the same"


def surely_other_vocabulary(student: Path, teacher: Path) -> str | None:
    """Return how the files of two folders differ, as `other_vocabulary`; None where it is not sure.

    That is without both files. Tokens that were added, which other files may name too, are not
    enough.
    """
    own, other = _read(student / TOKENIZER), _read(teacher / TOKENIZER)
    if own is None or other is None:
        return None
    added = own[1].keys() | other[1].keys()
    if all(own[0].get(piece) == other[0].get(piece) or piece in added
           for piece in own[0].keys() | other[0].keys()):  # fmt: skip
        return None
    return other_vocabulary({**own[0], **own[1]}, {**other[0], **other[1]})


def _read(path: Path) -> tuple[dict[str, int], dict[str, int]] | None:
    """Return the pieces and the added tokens of a file with their ids, None for one unread."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pieces = content["model"]["vocab"]
        if isinstance(pieces, list):  # of Unigram, with scores
            pieces = {str(piece): index for index, (piece, _) in enumerate(pieces)}
        added = {str(it["content"]): int(it["id"]) for it in content.get("added_tokens") or ()}
        return dict(pieces), added
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # there is none, or loading it says what is wrong with it
