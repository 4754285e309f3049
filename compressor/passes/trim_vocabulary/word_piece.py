"""Which tokenizers can lose a part of their vocabulary, as their files say; free of torch."""

from __future__ import annotations

TOKENIZER = "tokenizer.json"
# The parts of such a file that BERT's tokenizer has, and what they are there.
BERT_PARTS = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}


def not_word_piece(model: str) -> str:
    """Return the sentence that refuses a tokenizer by the type of its model."""
    return untrimmable(
        "this tokenizer",
        f"its model is {model}, where a dropped piece does not fall back to smaller ones",
    )


def untrimmable(kind: str, reason: str) -> str:
    """Return the sentence that refuses a tokenizer for a reason."""
    return (
        f"the vocabulary of {kind} cannot be trimmed: {reason}; supported are fast tokenizers "
        f"with a WordPiece model, such as those of BERT, DistilBERT, ELECTRA and MPNet"
    )


def not_as_bert(found: tuple[str | None, ...]) -> str:
    """Return the sentence that refuses `drop: unreachable` for these parts of a tokenizer."""
    return (
        f"drop: unreachable knows what no text leads to for {' and '.join(BERT_PARTS.values())} "
        f"alone, and this tokenizer has {' and '.join(map(str, found))}; use drop: unused"
    )
