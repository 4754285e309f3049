"""Which tokenizers can lose a part of their vocabulary, as their files say; free of torch."""

from __future__ import annotations

TOKENIZER = "tokenizer.json"
# How the `model` of such a file may split a word. Of all of them a dropped piece falls back to
# smaller ones; a WordLevel model has whole words alone.
KINDS = ("WordPiece", "Unigram", "BPE")
# The parts of such a file that BERT's tokenizer has, and what they are there.
BERT_PARTS = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
LOOKS_UP_WORDS = (
    "drop: unreachable can prove of no piece that no text leads to it: this tokenizer looks up "
    "whole words before it merges (ignore_merges); use drop: unused"
)


def no_smaller_pieces(model: str) -> str:
    """Return why a tokenizer whose model is of this type is refused."""
    return f"its model is {model}, where a dropped piece does not fall back to smaller ones"


def untrimmable(kind: str, reason: str) -> str:
    """Return the sentence that refuses a tokenizer for a reason."""
    return (
        f"the vocabulary of {kind} cannot be trimmed: {reason}; supported are fast tokenizers with "
        f"a {', '.join(KINDS[:-1])} or {KINDS[-1]} model"
    )


def not_as_bert(found: tuple[str | None, ...]) -> str:
    """Return the sentence that refuses `drop: unreachable` for these parts of a tokenizer."""
    return (
        f"drop: unreachable knows what no text leads to of a WordPiece model with "
        f"{' and '.join(BERT_PARTS.values())} alone, and this tokenizer has "
        f"{' and '.join(map(str, found))}; use drop: unused"
    )
