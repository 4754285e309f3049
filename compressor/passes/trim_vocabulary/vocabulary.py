"""The pieces of a tokenizer, and which of them need each other: one class for each kind of model.

What each class knows follows from how its model splits a word:

- WordPiece takes the longest piece that fits, from the left on.
- Unigram takes the pieces whose scores add up to most. The best way stays the best one as long as
  its pieces stay, because the other ways only become fewer.
- BPE begins with characters (or bytes) and joins neighbours by a list of merges, the first of the
  list first. A piece comes about as the merges inside of it alone make it, whatever stands around
  it, so what has to stay with it is what they make on the way.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

from tokenizers import Tokenizer, decoders

from compressor.errors import StepFailed
from compressor.passes.trim_vocabulary.kinds import BERT_PARTS, LOOKS_UP_WORDS, not_as_bert

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # how SentencePiece writes bytes
# By how much another way has to be better, as scores are added in another order elsewhere.
_CLEARLY_BETTER = 1e-6


class Vocabulary(ABC):
    """The pieces of one tokenizer; `ids` are those of its model, without tokens added to it."""

    written: ClassVar[str]  # how pieces at the beginning of a word, or inside it, are told apart

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.content: dict[str, Any] = json.loads(tokenizer.to_str())
        self.model: dict[str, Any] = self.content["model"]
        # Whether texts are turned into bytes, which are written as one character each.
        self._of_bytes = any(
            _has_byte_level(self.content[part]) for part in ("pre_tokenizer", "normalizer")
        )
        self.ids = dict(self._pieces())
        self.added: dict[str, int] = {
            entry["content"]: entry["id"] for entry in self.content["added_tokens"]
        }

    def _pieces(self) -> Iterable[tuple[str, int]]:
        found: dict[str, int] = self.model["vocab"]
        return found.items()

    def unknown(self) -> str | None:
        """Return the piece that stands for what is none, None where there is no such piece."""
        found: str | None = self.model.get("unk_token")
        return found if found in self.ids else None

    def indispensable(self) -> set[int]:
        """Return the ids of added and special tokens, of the unknown piece and of bytes."""
        unknown = self.unknown()
        found = set(self.added.values())
        if unknown is not None:
            found.add(self.ids[unknown])
        if self.model.get("byte_fallback"):  # also where some are missing: others are used
            found |= {self.ids[byte] for byte in _BYTES if byte in self.ids}
        return found

    def _has_bytes(self) -> bool:
        """Return whether bytes stand for every character that is no piece."""
        return bool(self.model.get("byte_fallback")) and all(byte in self.ids for byte in _BYTES)

    def can_lose_characters(self) -> bool:
        """Return whether a text can still be read where single characters are no pieces."""
        return self.unknown() is not None or self._of_bytes or self._has_bytes()

    def characters(self) -> set[int]:
        """Return the ids of what other pieces fall back to, so that all stays known that was.

        These are single characters, and pieces with a character that is no piece by itself; none
        where bytes are pieces, because those stay for every character.
        """
        return {
            index
            for piece, index in self.ids.items()
            if len(symbols := self.symbols(piece)) <= 1
            or not all(symbol in self.ids for symbol in symbols)
        }

    def symbols(self, piece: str) -> list[str]:
        """Return the smallest pieces that a piece could be split into, one for each character."""
        return list(piece)

    def text_of(self, piece: str) -> str | None:
        """Return the characters that a piece stands for; None for a part of a character."""
        return piece

    def normalized(self, characters: Iterable[str]) -> set[str]:
        """Return what each of these characters becomes before words are split."""
        normalizer = self.tokenizer.normalizer
        if normalizer is None or self._of_bytes:
            return set()
        return {normalizer.normalize_str(letter) for letter in characters}

    def closed(self, stay: set[int]) -> set[int]:
        """Return `stay` with all that its pieces need to come about in a text as before."""
        return stay

    @abstractmethod
    def unreachable(self) -> set[int]:
        """Return ids of pieces of which it is proven that the tokens of no text contain them.

        Raises `StepFailed` where nothing can be proven.
        """

    def trim(self, model: dict[str, Any], new_ids: Mapping[int, int]) -> None:
        """Leave only the pieces with a new id in the `model` of a tokenizer.json, in place."""
        model["vocab"] = {
            piece: new_ids[old]
            for piece, old in sorted(model["vocab"].items(), key=lambda item: item[1])
            if old in new_ids
        }


class WordPieces(Vocabulary):
    """The pieces of a WordPiece model, as those of BERT, DistilBERT, ELECTRA and MPNet."""

    written = "pieces inside a word begin with ##"

    @property
    def _prefix(self) -> str:
        found: str = self.model["continuing_subword_prefix"]
        return found

    def symbols(self, piece: str) -> list[str]:
        """Return characters, those inside a word with the prefix; the prefix alone is one."""
        inside, text = self._inside_a_word(piece)
        if piece == self._prefix:
            return [piece]
        first = [(self._prefix if inside else "") + text[:1]] if text else []
        return [*first, *(self._prefix + letter for letter in text[1:])]

    def text_of(self, piece: str) -> str:
        """Return the characters without the prefix."""
        return self._inside_a_word(piece)[1]

    def _inside_a_word(self, piece: str) -> tuple[bool, str]:
        """Return whether a piece goes on with a word, and its text; the prefix alone does not."""
        inside = piece.startswith(self._prefix) and piece != self._prefix
        return inside, piece.removeprefix(self._prefix) if inside else piece

    def unreachable(self) -> set[int]:
        """Return the ids of pieces that BERT's tokenizer changes or splits.

        A piece is looked up in words, and a word is what BERT's normalizer and splitting at spaces,
        punctuation and Chinese characters leave. Both leave such a word as it is, and so every part
        of it; a piece that they change or split is part of none. In `bert-base-uncased` these are
        `[unused0]` to `[unused993]`, and what continues a word with punctuation or Chinese
        characters.
        """
        found = tuple((self.content[name] or {}).get("type") for name in BERT_PARTS)
        normalizer, splitter = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        if found != tuple(BERT_PARTS.values()) or normalizer is None or splitter is None:
            raise StepFailed(not_as_bert(found))

        def stays(piece: str) -> bool:
            inside, text = self._inside_a_word(piece)
            # Any letter does for the beginning of the word, as each is treated by itself.
            word = "a" + text if inside else text
            parts = splitter.pre_tokenize_str(normalizer.normalize_str(word))
            return [part for part, _ in parts] == [word]

        kept = self.indispensable()
        return {
            index for piece, index in self.ids.items() if index not in kept and not stays(piece)
        }


class Unigrams(Vocabulary):
    """The pieces of a Unigram model with their scores, as those of XLM-RoBERTa and ALBERT."""

    written = "pieces at the beginning of a word begin with ▁ (U+2581)"

    def _pieces(self) -> Iterator[tuple[str, int]]:
        for index, (piece, _) in enumerate(self.model["vocab"]):
            yield piece, index

    def unknown(self) -> str | None:
        """Return the unknown piece, which the model knows by its id."""
        index = self.model["unk_id"]
        return None if index is None else str(self.model["vocab"][index][0])

    def indispensable(self) -> set[int]:
        """Return the ids of added, special and unknown pieces, of all before, and of bytes.

        Those before the unknown piece stay because several classes of transformers, such as that
        for XLM-RoBERTa, know it by a fixed id.
        """
        found = super().indispensable()
        if self.model["unk_id"] is not None:
            found |= set(range(self.model["unk_id"] + 1))
        return found

    def characters(self) -> set[int]:
        """Return the ids of single characters, unless bytes stand for them."""
        return set() if self._has_bytes() else super().characters()

    def closed(self, stay: set[int]) -> set[int]:
        """Return `stay` with a piece of the lowest score, from which that of unknown ones follows.

        Were it higher, an unknown character would be worth more beside others than it was.
        """
        scores = [score for _, score in self.model["vocab"]]
        least = min(scores)
        lowest = [index for index, score in enumerate(scores) if score == least]
        return stay if stay.intersection(lowest) else stay | {lowest[0]}

    def unreachable(self) -> set[int]:
        """Return the ids of pieces that another way to split them always beats.

        Wherever such a piece could stand, the others could stand in its place and add up to more.
        """
        scores: dict[str, float] = dict(self.model["vocab"])
        kept, unknown = self.indispensable(), self.unknown()
        found = set()
        for piece, index in self.ids.items():
            if index in kept or not piece:
                continue
            best = [token.value for token in self.tokenizer.model.tokenize(piece)]
            if (
                best != [piece]
                and unknown not in best
                and all(part in scores for part in best)
                and sum(scores[part] for part in best) > scores[piece] + _CLEARLY_BETTER
            ):
                found.add(index)
        return found

    def trim(self, model: dict[str, Any], new_ids: Mapping[int, int]) -> None:
        """Leave the pieces with a new id, which is their place in the list, and their scores."""
        if model["unk_id"] is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
        model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new_ids]


class BytePairs(Vocabulary):
    """The pieces of a BPE model with their merges, as those of RoBERTa, ModernBERT and Llama."""

    written = (
        "pieces behind a space begin with Ġ where pieces are of bytes, with ▁ (U+2581) where they "
        "are of characters"
    )

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._ranks = {_pair(merge): rank for rank, merge in enumerate(self.model["merges"])}
        self._prefix: str = self.model.get("continuing_subword_prefix") or ""
        self._suffix: str = self.model.get("end_of_word_suffix") or ""
        self._decoder = decoders.ByteLevel()

    def indispensable(self) -> set[int]:
        """Return the ids of added, special and unknown tokens, and of bytes where there are any."""
        found = super().indispensable()
        if self._of_bytes:
            found |= {index for piece, index in self.ids.items() if len(self.symbols(piece)) == 1}
        return found

    def characters(self) -> set[int]:
        """Return the ids of single characters, unless bytes stand for them."""
        return set() if self._of_bytes or self._has_bytes() else super().characters()

    def symbols(self, piece: str) -> list[str]:
        """Return the symbols from which merges make a piece, if they do."""
        inside = bool(self._prefix) and piece.startswith(self._prefix)
        text, last = piece.removeprefix(self._prefix) if inside else piece, ""
        if self._suffix and text.endswith(self._suffix) and text != self._suffix:
            text, last = text.removesuffix(self._suffix), self._suffix
        found = [
            (self._prefix if inside or place else "") + letter for place, letter in enumerate(text)
        ]
        return [*found[:-1], found[-1] + last] if found else [piece]

    def text_of(self, piece: str) -> str | None:
        """Return the characters of a piece, None for bytes that are no whole characters."""
        text = piece.removeprefix(self._prefix).removesuffix(self._suffix)
        if not self._of_bytes:
            return text
        found: str = self._decoder.decode([text])
        return None if "\ufffd" in found else found

    def made(self, piece: str) -> list[str] | None:
        """Return all pieces on the way from characters to `piece`, itself last.

        None where merges do not lead there, so that no text leads to it by merges either.
        """
        parts = self.symbols(piece)
        if not all(part in self.ids for part in parts):
            return None
        found = list(parts)
        while len(parts) > 1:
            ranks = [self._ranks.get(pair) for pair in pairwise(parts)]
            known = [rank for rank in ranks if rank is not None]
            if not known:
                return None
            place = ranks.index(min(known))
            joined = parts[place] + parts[place + 1].removeprefix(self._prefix)
            parts[place : place + 2] = [joined]
            found.append(joined)
        return found

    def closed(self, stay: set[int]) -> set[int]:
        """Return `stay` with all pieces on the way to each of its pieces."""
        found = set(stay)
        for piece, index in self.ids.items():
            if index in stay:
                found.update(self.ids[part] for part in self.made(piece) or ())
        return found

    def unreachable(self) -> set[int]:
        """Return the ids of pieces that merges do not make."""
        if self.model.get("ignore_merges"):
            raise StepFailed(LOOKS_UP_WORDS)
        kept = self.indispensable()
        return {
            index
            for piece, index in self.ids.items()
            if index not in kept and self.made(piece) is None
        }

    def trim(self, model: dict[str, Any], new_ids: Mapping[int, int]) -> None:
        """Leave the pieces with a new id, and the merges that lead from such to such a piece."""
        super().trim(model, new_ids)
        vocabulary = model["vocab"]

        def stays(merge: str | list[str]) -> bool:
            left, right = _pair(merge)
            joined = left + right.removeprefix(self._prefix)
            return all(piece in vocabulary for piece in (left, right, joined))

        model["merges"] = [merge for merge in model["merges"] if stays(merge)]


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Return the two pieces of a merge, which older files write as one text."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _has_byte_level(part: Mapping[str, Any] | None) -> bool:
    """Return whether a part of a tokenizer, or one inside of it, turns texts into bytes."""
    if part is None:
        return False
    inside = [*part.get("pretokenizers", ()), *part.get("normalizers", ())]
    return part["type"] == "ByteLevel" or any(map(_has_byte_level, inside))


VOCABULARIES: Mapping[str, type[Vocabulary]] = {
    "WordPiece": WordPieces,
    "Unigram": Unigrams,
    "BPE": BytePairs,
}
